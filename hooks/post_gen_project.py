"""Writes the library's wheel into the new project's vendor/ folder, and pins it there by its hash.

`make release` builds the same wheel. Its bytes depend on the source alone: members are sorted,
stored without compression and carry a fixed time.
"""

import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path

SUFFIXES = {".css", ".html", ".json", ".md", ".py", ".sql", ".typed", ".yml"}
NO_SOURCE = """\
The library's source is not beside the template, so vendor/ stays empty. Generate from a whole clone
of the repository, or put a wheel and its hash into vendor/ by hand (README.md, "The library")."""


def build_wheel(repository: Path, folder: Path) -> Path:
    """The path of the wheel of `repository`, written into `folder`; its version names its content."""
    source = repository / "src"
    files = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in sorted((source / "jollyboat").rglob("*"))
        if path.suffix in SUFFIXES and path.is_file()
    }
    settings = (repository / "pyproject.toml").read_text(encoding="utf-8")
    content = hashlib.sha256(settings.encode())
    for name, data in files.items():
        content.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    release = read_setting("__version__", files["jollyboat/__init__.py"].decode())
    version = f"{release}+{content.hexdigest()[:8]}"
    info = f"jollyboat-{version}.dist-info"
    files[f"{info}/METADATA"] = metadata(settings, version).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: jollyboat\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = (
        b"[console_scripts]\njollyboat = jollyboat.cli:main\n\n"
        b"[pytest11]\njollyboat.testing = jollyboat.testing\n"
    )
    files[f"{info}/RECORD"] = "".join(
        [f"{name},{record(data)},{len(data)}\n" for name, data in files.items()]
        + [f"{info}/RECORD,,\n"]
    ).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"jollyboat-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)  # of 1980-01-01, whenever it is written
            member.external_attr = 0o644 << 16
            member.create_system = 3
            archive.writestr(member, data)
    return wheel


def metadata(settings: str, version: str) -> str:
    """The wheel's METADATA from the text of pyproject.toml, read without tomllib: any Python 3 runs this."""
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", settings, re.MULTILINE | re.DOTALL)[1]
    fields = [
        *("Metadata-Version: 2.4", "Name: jollyboat", f"Version: {version}"),
        f"Summary: {read_setting('description', settings)}",
        f"Requires-Python: {read_setting('requires-python', settings)}",
        *(f"Requires-Dist: {need}" for need in re.findall(r'^    "(.+?)",', listed, re.MULTILINE)),
    ]
    return "\n".join(fields) + "\n"


def read_setting(name: str, settings: str) -> str:
    """A text of pyproject.toml that stands on one line."""
    return re.search(f'^{name} = "(.+)"', settings, re.MULTILINE)[1]


def record(data: bytes) -> str:
    """A member's hash as RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def pin(wheel: Path) -> None:
    """Name the wheel, and no other, beside it; requirements.txt includes this file."""
    for old in wheel.parent.glob("jollyboat-*.whl"):
        if old != wheel:
            old.unlink()
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    version = wheel.name.split("-")[1]
    text = f"--find-links .\njollyboat=={version} --hash=sha256:{sha256}\n"
    (wheel.parent / "jollyboat.txt").write_text(text, encoding="utf-8")


def main(repository: Path) -> None:
    if (repository / "src" / "jollyboat" / "__init__.py").is_file():
        pin(build_wheel(repository, Path("vendor")))
    else:
        print(NO_SOURCE, file=sys.stderr)


if __name__ == "__main__":
    # The template's folder is the working directory while this line is rendered.
    main(Path({{cycler.__init__.__globals__.os.getcwd() | jsonify}}))  # noqa: F821
