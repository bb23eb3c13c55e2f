"""Where a version of the library comes from, and what is in it."""

import hashlib
import runpy
import subprocess
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from jollyboat.store import LIBRARY, UserError
from jollyboat.upgrade.requirements import UV

CHANGELOG = "jollyboat/CHANGELOG.md"
HOOK = Path("hooks") / "post_gen_project.py"


def fetch_wheel(source: str, version: str | None, folder: Path) -> Path:
    """The wheel that `source` names; built or copied into `folder` if it is not a wheel itself."""
    path = Path(source)
    if path.suffix == ".whl" and path.is_file():
        return path
    if not source or not (path.is_dir() or "://" in source):
        raise UserError(
            f"There is no version of the library at {source!r}. Name a wheel, a folder of wheels, "
            "a package index or a clone of the library: make upgrade FROM=path/or/address"
        )
    if (path / HOOK).is_file():
        return runpy.run_path(str(path / HOOK))["build_wheel"](path.resolve(), folder)
    download = _resolve(source, version)
    url, digest = download["url"], download["hashes"]["sha256"]
    wheel = folder / urllib.parse.unquote(PurePosixPath(urllib.parse.urlparse(url).path).name)
    try:
        with urllib.request.urlopen(url) as response:
            wheel.write_bytes(response.read())
    except urllib.error.URLError as error:
        raise UserError(f"{url} could not be read ({error.reason}); name a wheel.") from error
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
        raise UserError(f"{url} is not the file that its index announces (SHA-256 {digest}).")
    return wheel


def _resolve(source: str, version: str | None) -> dict:
    """The address and the hash of the wheel that uv chooses from a folder or an index."""
    is_folder = Path(source).is_dir()
    where = ["--no-index", "--find-links", source] if is_folder else ["--default-index", source]
    command = [UV, "pip", "compile", "--quiet", "--no-deps", "--format", "pylock.toml"]
    done = subprocess.run(
        [*command, *where, "-"],
        input=f"jollyboat=={version}" if version else "jollyboat",
        capture_output=True,
        text=True,
        check=False,
    )
    packages = tomllib.loads(done.stdout)["packages"] if done.returncode == 0 else [{}]
    if "wheels" not in packages[0]:
        what = f"jollyboat {version}" if version else "jollyboat"
        raise UserError(f"{source} has no wheel of {what}. uv says:\n{done.stderr.strip()}")
    return packages[0]["wheels"][0]


def read_installed() -> dict[str, bytes]:
    """The files of the library that runs, by their names in a wheel."""
    paths = [path for path in LIBRARY.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(LIBRARY.parent).as_posix(): path.read_bytes() for path in paths}


def read_wheel(wheel: Path) -> dict[str, bytes]:
    """The members of the library's wheel by name; UserError where it is another package's."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel} is not a wheel ({error}).") from error
    if CHANGELOG not in members:
        raise UserError(f"{wheel.name} is not a wheel of this library: it has no {CHANGELOG}.")
    return members
