"""Takes a project to another version of the library: wheel and pin in vendor/, and set-up."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from email import message_from_bytes
from pathlib import Path

from jollyboat.store import UserError, replacing, write_text
from jollyboat.upgrade import changes
from jollyboat.upgrade.requirements import find_unmet, read_versions, write_requirements
from jollyboat.upgrade.sources import CHANGELOG, fetch_wheel, read_installed, read_wheel


def upgrade(project: Path, source: str, version: str | None = None) -> list[str]:
    """Install the library's `version` (the newest) from `source`; return what changed.

    `source` is a wheel, a folder of wheels, the address of a package index, or a clone of the
    library's repository. Raises UserError where that fails, and leaves the project as it was.
    """
    old_version, old_packages = read_pinned_version(project), read_versions(project)
    with tempfile.TemporaryDirectory() as folder:
        wheel = fetch_wheel(source, version, Path(folder))
        new_version = wheel.name.split("-")[1]
        if version and version not in (new_version, new_version.partition("+")[0]):
            raise UserError(
                f"{source} is jollyboat {new_version}, not {version}; name one of the two alone."
            )
        old, new = read_installed(), read_wheel(wheel)
        if new_version == old_version:
            left = _other_wheels(project, wheel)
            if not left:
                return [f"The project already has jollyboat {old_version}; nothing was changed."]
            # An upgrade that was killed: it removes the wheel before at its end.
            old, old_version = read_wheel(left[0]), left[0].name.split("-")[1]
        install_wheel(project, wheel, Path(folder))
    return [
        f"jollyboat is now {new_version}; it was {old_version}.",
        *changes.describe_changelog(old[CHANGELOG].decode(), new[CHANGELOG].decode()),
        *changes.describe_packages(old_packages, read_versions(project)),
        *changes.describe_rebuild(old, new),
        *check_in_new_process(project),
        *changes.describe_work(old, new, project),
    ]


def read_pinned_version(project: Path) -> str:
    """The version of the library that vendor/jollyboat.txt pins; UserError where there is none."""
    pin = project / "vendor" / "jollyboat.txt"
    pinned = pin.read_text(encoding="utf-8").partition("jollyboat==")[2] if pin.exists() else ""
    if not pinned:
        raise UserError(f"{pin} pins no version of the library: this project runs its source.")
    return pinned.split()[0]


def install_wheel(project: Path, wheel: Path, folder: Path) -> None:
    """Put the wheel into vendor/, pin it and set up; where that fails, restore what was there."""
    files = [project / "requirements.txt", project / "vendor" / "jollyboat.txt"]
    for file in files:
        shutil.copy2(file, folder / file.name)
    vendored = project / "vendor" / wheel.name
    others = _other_wheels(project, wheel)
    try:
        with replacing(vendored) as draft:
            shutil.copyfile(wheel, draft)
        _write_pin(vendored)
        if find_unmet(_read_requirements(vendored), read_versions(project)):
            write_requirements(project, keep_versions=True)
        set_up(project)
    except BaseException:  # an interrupt, too, must not leave half an upgrade
        for file in files:
            with replacing(file) as draft:
                shutil.copy2(folder / file.name, draft)
        vendored.unlink(missing_ok=True)
        with suppress(UserError):
            set_up(project)
        raise
    for other in others:
        other.unlink()


def _other_wheels(project: Path, wheel: Path) -> list[Path]:
    """The wheels of other versions in vendor/."""
    vendored = sorted((project / "vendor").glob("jollyboat-*.whl"))
    return [path for path in vendored if path.name != wheel.name]


def _write_pin(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    text = f"--find-links .\njollyboat=={wheel.name.split('-')[1]} --hash=sha256:{digest}\n"
    write_text(wheel.with_name("jollyboat.txt"), text)


def _read_requirements(wheel: Path) -> list[str]:
    members = read_wheel(wheel)
    (metadata,) = (data for name, data in members.items() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(metadata).get_all("Requires-Dist", [])


def set_up(project: Path) -> None:
    """Install what is pinned, as `make setup` does; UserError with its words where that fails."""
    # The variables of `make upgrade` are not those of `make setup`.
    kept = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS"}
    }
    command = ["make", "--no-print-directory", "setup"]
    done = subprocess.run(
        command, cwd=project, env=kept, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = (done.stdout + done.stderr).strip()
        raise UserError(f"It could not be installed, so the project is as before.\n{words}")


def check_in_new_process(project: Path) -> list[str]:
    """What the new version says of the data that the old one left."""
    command = [sys.executable, "-m", "jollyboat.cli", "upgrade", "--check"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        fault = done.stderr.strip()[-500:]
        return [f"The new version could not check the data of the old one: {fault}"]
    return done.stdout.splitlines()
