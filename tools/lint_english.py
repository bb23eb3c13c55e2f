"""Checks the words of this repository: `python tools/lint_english.py`, part of `make lint`.

Banned words and names are in english.toml. Sentences are those of documents and docstrings.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = tomllib.loads(Path(__file__).with_name("english.toml").read_text(encoding="utf-8"))
KINDS = {".css", ".html", ".json", ".md", ".mk", ".py", ".sql", ".toml", ".yml"}
# These quote the words that they ban, or what an older version said.
EXEMPT = {"CHANGELOG.md", "english.toml"}
WORDS = re.compile(r"\b(" + "|".join(map(re.escape, RULES["everywhere"])) + r")\b", re.IGNORECASE)
SQL_NAME = re.compile(r"\bas (\w+)|^(\w+) as (?:not )?(?:materialized )?\(", re.MULTILINE)
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def main() -> int:
    """Print a line per finding; 1 if there is one."""
    findings = [finding for path in tracked_files() for finding in check(path)]
    print("\n".join(findings) or "english: nothing found")
    return bool(findings)


def tracked_files() -> list[Path]:
    """The files of the repository that people read or write."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [
        path
        for path in paths
        if path.suffix in KINDS and path.name not in EXEMPT and path.is_file()
    ]


def check(path: Path) -> Iterator[str]:
    """What is wrong in one file, as `file:line: sentence`."""
    text = path.read_text(encoding="utf-8")
    place = path.relative_to(ROOT)
    for match in WORDS.finditer(text):
        yield f"{place}:{line_of(text, match.start())}: write another word for {match[0]!r}"
    if path.suffix == ".py":
        tree = ast.parse(text)
        for line, name in python_names(tree):
            if name.strip("_") in RULES["names"]:
                yield f"{place}:{line}: the name {name!r} does not say what it holds"
        prose = [(line, words) for line, words in docstrings(tree)]
    elif path.suffix == ".sql":
        for match in SQL_NAME.finditer(text):
            if (match[1] or match[2]) in RULES["names"]:
                line, name = line_of(text, match.start()), match[1] or match[2]
                yield f"{place}:{line}: the name {name!r} does not say what it holds"
        prose = []
    else:
        prose = [(1, text)] if path.suffix == ".md" else []
    for line, words in prose:
        for sentence in sentences(words):
            count = len(sentence.split())
            if count > RULES["longest_sentence"]:
                yield f"{place}:{line}: a sentence of {count} words: {sentence[:60]!r}"


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def python_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that the code gives to something, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every docstring with the line that it belongs to."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def sentences(text: str) -> list[str]:
    """The sentences of prose, without code, tables and headings; a list's item ends a sentence."""
    text = CODE.sub("code", text)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "#"))]
    blocks = re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", "\n".join(lines))
    return [part for block in blocks for part in re.split(r"(?<=[.!?:;])\s+", block)]


if __name__ == "__main__":
    sys.exit(main())
