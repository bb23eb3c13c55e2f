"""Writes the library's wheel into the new project's vendor/ folder and pins it there by its hash.

`make release` calls `build_wheel`, too. The bytes of the wheel depend on the source alone: members
are sorted, stored without compression and dated 1980-01-01.
"""

import sys
import tomllib
import zipfile
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

NO_SOURCE = """\
The library's source is not beside the template, so vendor/ has no wheel. Generate the project from
a whole clone of the repository, or see "The library" in the project's README.md."""
WHEEL = "Wheel-Version: 1.0\nGenerator: jollyboat\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(repository: Path, folder: Path) -> Path:
    """Write the wheel of the library in `repository` into `folder`; return the path of the wheel.

    The local part of the version is a hash of the content: other content has another version.
    """
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    patterns = ["**/*.py", *settings["tool"]["setuptools"]["package-data"]["jollyboat"]]
    source = repository / "src"
    paths = sorted({path for pattern in patterns for path in (source / "jollyboat").glob(pattern)})
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}

    release = files["jollyboat/__init__.py"].decode().split('__version__ = "')[1].split('"')[0]
    version = f"{release}+{sha256(ascii((files, project)).encode()).hexdigest()[:8]}"
    info = f"jollyboat-{version}.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: jollyboat\nVersion: {version}\n"
    metadata += f"Summary: {project['description']}\n"
    metadata += f"Requires-Python: {project['requires-python']}\n"
    metadata += "".join(f"Requires-Dist: {package}\n" for package in project["dependencies"])
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    entry_points = ""
    for group, entries in groups.items():
        entry_points += f"[{group}]\n"
        entry_points += "".join(f"{name} = {place}\n" for name, place in entries.items())
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files[f"{info}/entry_points.txt"] = entry_points.encode()
    records = [f"{name},{record_hash(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{info}/RECORD"] = f"{''.join(records)}{info}/RECORD,,\n".encode()

    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"jollyboat-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, data)
    return wheel


def record_hash(data: bytes) -> str:
    """The hash of a member as RECORD states it."""
    return f"sha256={urlsafe_b64encode(sha256(data).digest()).rstrip(b'=').decode()}"


def pin_wheel(wheel: Path) -> None:
    """Write jollyboat.txt, which requirements.txt includes, beside the wheel; delete others."""
    for other in set(wheel.parent.glob("jollyboat-*.whl")) - {wheel}:
        other.unlink()
    digest = sha256(wheel.read_bytes()).hexdigest()
    text = f"--find-links .\njollyboat=={wheel.name.split('-')[1]} --hash=sha256:{digest}\n"
    (wheel.parent / "jollyboat.txt").write_text(text, encoding="utf-8")


def main(repository: Path) -> None:
    """Fill vendor/ of the project in the working directory."""
    if (repository / "src" / "jollyboat" / "__init__.py").is_file():
        pin_wheel(build_wheel(repository, Path("vendor")))
    else:
        print(NO_SOURCE, file=sys.stderr)


if __name__ == "__main__":
    # The working directory is the template's folder while cookiecutter renders this line.
    main(Path({{cycler.__init__.__globals__.os.getcwd() | jsonify}}))  # noqa: F821
