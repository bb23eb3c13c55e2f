"""requirements.txt of a project: the library's pin, then every other version with its hashes.

requirements-cluster.txt has what only `jollyboat cluster export` needs, and requirements-spark.txt
what only a build on Spark needs, in versions that fit.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jollyboat.store import UserError, write_text

UV = Path(sys.executable).with_name("uv")
COMPILE = [UV, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
COMPILE += ["--generate-hashes", "--no-strip-extras", "--no-header", "--no-annotate"]
COMPILE += ["--no-emit-index-url", "--no-emit-package", "jollyboat"]
OPTIONAL = ("cluster", "spark")
LIBRARY_PIN = "-r vendor/jollyboat.txt\n"


def write_requirements(project: Path, *, keep_versions: bool = False) -> None:
    """Pin what requirements.in and the library need, for every supported Python.

    Versions are the newest that fit; with `keep_versions` the present ones stay where they fit.
    Raises UserError, and leaves the files as they are, where nothing fits.
    """
    pin = project / "vendor" / "jollyboat.txt"
    library = pin if pin.stat().st_size else project.parent / "pyproject.toml"
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "requirements.txt"
        _pin(project, draft, keep_versions, "requirements.in", library)
        for part in OPTIONAL:
            source = project / f"requirements-{part}.in"
            if source.exists():
                optional = Path(folder) / f"requirements-{part}.txt"
                _pin(project, optional, keep_versions, source.name, "--constraint", draft)
                write_text(project / optional.name, optional.read_text(encoding="utf-8"))
        write_text(project / draft.name, LIBRARY_PIN + draft.read_text(encoding="utf-8"))


def _pin(project: Path, draft: Path, keep_versions: bool, *inputs: str | Path) -> None:
    """Write the draft of the project's file of this name."""
    file = project / draft.name
    if keep_versions and file.exists():
        draft.write_text(file.read_text(encoding="utf-8").removeprefix(LIBRARY_PIN))
    command = [*COMPILE, *inputs, "--output-file", draft]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{draft.name} was not written. uv says why:\n{done.stderr.strip()}")


def read_versions(project: Path) -> dict[str, set[str]]:
    """The versions that requirements.txt pins, by package; several where platforms differ."""
    text = (project / "requirements.txt").read_text(encoding="utf-8")
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def find_unmet(requirements: list[str], versions: dict[str, set[str]]) -> list[str]:
    """Those of the requirements that the pinned versions do not satisfy."""
    return [
        text
        for text, requirement in ((text, Requirement(text)) for text in requirements)
        if not (pinned := versions.get(canonicalize_name(requirement.name)))
        or not all(requirement.specifier.contains(version, prereleases=True) for version in pinned)
    ]
