"""The libraries that a model's answers depend on: installed versions and licences."""

from contextlib import suppress
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

# A bundle serves only with the versions that it was made with. A library may have two names.
LIBRARIES = {
    "duckdb": ("duckdb",),
    "numpy": ("numpy",),
    "pandas": ("pandas",),
    "scikit-learn": ("scikit-learn",),
    "skops": ("skops",),
    "xgboost": ("xgboost-cpu", "xgboost"),
}


def installed_libraries() -> dict[str, str]:
    """The installed version of each library."""
    return dict(_versions())


def licences() -> dict[str, str]:
    """The licence of each library: by its metadata, or the first line of its licence file."""
    return {name: _licence(package) for name, package in _installed().items()}


def _licence(package: Distribution) -> str:
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [text.split(" :: ") for text in metadata.get_all("Classifier", [])]
    names = [name for kind, *names in classifiers if kind == "License" for name in names[1:]]
    if names:
        return ", ".join(names)
    files = [file for file in package.files or [] if file.name.startswith("LICENSE")]
    return files[0].read_text().strip().partition("\n")[0] if files else "unknown"


@cache
def _versions() -> dict[str, str]:
    return {name: package.version for name, package in _installed().items()}


@cache
def _installed() -> dict[str, Distribution]:
    """Each library that is installed, under the first of its names that is."""
    installed: dict[str, Distribution] = {}
    for name, packages in LIBRARIES.items():
        for package in packages:
            with suppress(PackageNotFoundError):
                installed.setdefault(name, distribution(package))
    return installed
