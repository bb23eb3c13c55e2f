"""The libraries that a model's answers depend on: installed versions and licences."""

from contextlib import suppress
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

# What a model's answers depend on; a bundle serves only with the versions that it was made with.
LIBRARIES = {
    "duckdb": ("duckdb",),
    "numpy": ("numpy",),
    "pandas": ("pandas",),
    "scikit-learn": ("scikit-learn",),
    "skops": ("skops",),
    "xgboost": ("xgboost-cpu", "xgboost"),
}


def installed_libraries() -> dict[str, str]:
    """The installed version of each library that a model's answers depend on."""
    return {name: package.version for name, package in _installed().items()}


def licences() -> dict[str, str]:
    """The licence of each of these libraries, by its metadata, else by the first line of its licence file."""
    return {name: _licence(package) for name, package in _installed().items()}


def _licence(package: Distribution) -> str:
    about = package.metadata
    named = [
        each.split(" :: ")
        for each in about.get_all("Classifier", [])
        if each.startswith("License :: ")
    ]
    said = about.get("License-Expression") or ", ".join(
        name for _, _, *rest in named for name in rest
    )
    files = [file for file in package.files or [] if file.name.startswith("LICENSE")]
    return said or (files[0].read_text().strip().partition("\n")[0] if files else "unknown")


@cache
def _installed() -> dict[str, Distribution]:
    """What is installed of each library, under the first of its names that is."""
    found: dict[str, Distribution] = {}
    for name, packages in LIBRARIES.items():
        for package in packages:
            with suppress(PackageNotFoundError):
                found.setdefault(name, distribution(package))
    return found
