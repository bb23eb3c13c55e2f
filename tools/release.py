"""`make release`: dates the changelog's newest section, and builds wheel and site into dist/."""

import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def date_section(changelog: str, version: str, day: date) -> str:
    """The changelog with the date of the version's section, which a release before may have set.

    SystemExit where the newest section is another version's, or is empty.
    """
    newest = re.search(r"^## (\S+)(?: \(.*\))?\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if not newest or newest[1] != version:
        sys.exit(
            f"The newest section of CHANGELOG.md is {newest[1] if newest else 'missing'}, and "
            f"src/jollyboat/__init__.py has {version}. Write a section, ## {version} (unreleased)."
        )
    if not newest[2].strip():
        sys.exit(f"The section {version} of CHANGELOG.md is empty. Write what users notice.")
    return changelog.replace(f"## {version} (unreleased)", f"## {version} ({day})", 1)


def build(repository: Path, folder: Path) -> Path:
    """Date the changelog and write the wheel; returns its path after a look at what it installs."""
    source = repository / "src/jollyboat"
    text = (source / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.*)"', text)[1]
    file = source / "CHANGELOG.md"
    changelog = file.read_text(encoding="utf-8")
    file.write_text(date_section(changelog, version, datetime.now(UTC).date()), encoding="utf-8")
    hook = runpy.run_path(str(repository / "hooks/post_gen_project.py"))
    wheel = hook["build_wheel"](repository, folder)
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*command, "--target", target, wheel], check=True)
        installed = [path.name for path in Path(target).glob("jollyboat-*.dist-info")]
    if installed != [f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"]:
        sys.exit(f"{wheel} installs {installed}. Look at hooks/post_gen_project.py.")
    return wheel


def main() -> None:
    """Build into dist/, and print what to do next."""
    wheel = build(ROOT, ROOT / "dist")
    version = wheel.name.split("-")[1].partition("+")[0]
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    subprocess.run(mkdocs, cwd=ROOT, check=True)
    site = shutil.make_archive(str(ROOT / f"dist/site-{version}"), "zip", ROOT / "build/site")
    print(f"wheel: {wheel.relative_to(ROOT)}, SHA-256 {sha256(wheel.read_bytes()).hexdigest()}")
    print(f"site: {Path(site).relative_to(ROOT)}")
    print(f"next: git commit -am 'Release {version}' && git tag v{version}")


if __name__ == "__main__":
    main()
