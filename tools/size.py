"""Files, lines and bytes of a generated project and of the library: `make size`.

Not counted: tests and documents, the library's wheel, and pinned requirements, which are generated.
"""

import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HALVES = {"project": "{{cookiecutter.project_slug}}", "library": "src/jollyboat"}
NOT_COUNTED = {"tests", "unit_tests", "docs", "vendor", "CHANGELOG.md"}
NOT_COUNTED |= {"requirements.txt", "requirements-cluster.txt", "requirements-spark.txt"}


def list_files(half: str) -> list[Path]:
    """The counted files of a half, relative to its folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", half]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(name).relative_to(half) for name in listed.split("\0") if name]
    return [
        path
        for path in paths
        if NOT_COUNTED.isdisjoint(path.parts) and (ROOT / half / path).is_file()
    ]


def measure(half: str) -> tuple[Counter, Counter, int]:
    """Files by folder, lines by folder, and bytes in all."""
    files, lines, size = Counter(), Counter(), 0
    for path in list_files(half):
        text = (ROOT / half / path).read_text(encoding="utf-8")
        folder = path.parts[0] if len(path.parts) > 1 else "(top)"
        files[folder] += 1
        lines[folder] += text.count("\n")
        size += len(text.encode())
    return files, lines, size


def mean_line(half: str) -> float:
    """The mean length of the Python lines that are not empty."""
    texts = [ROOT / half / path for path in list_files(half) if path.suffix == ".py"]
    lengths = [
        len(line) for path in texts for line in path.read_text().splitlines() if line.strip()
    ]
    return sum(lengths) / len(lengths)


def main() -> None:
    for name, half in HALVES.items():
        files, lines, size = measure(half)
        print(f"{name}: {half}")
        for folder in sorted(files):
            print(f"  {folder:<16}{files[folder]:>4} files {lines[folder]:>7,} lines")
        print(f"  {'in all':<16}{files.total():>4} files {lines.total():>7,} lines", end="")
        print(f"  {size / 1000:,.0f} kB, mean Python line {mean_line(half):.1f} characters")


if __name__ == "__main__":
    main()
