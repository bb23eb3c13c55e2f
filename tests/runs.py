"""Copies of a generated project that are typed into, and guides that are followed to the letter."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import demo

JOLLYBOAT = ("-m", "jollyboat.cli")  # the command `jollyboat`, for a project's Python
STEP = re.compile(r"(?:`(?P<file>[^`\n]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A block of a guide: `sh` is typed, `diff` edits a file, what else has a file named before it is written there."""

    kind: str
    file: str
    text: str


def make(project: Path, *verbs: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """A verb typed in the project, its output and errors as one text."""
    return subprocess.run(
        [*before, "make", *verbs],
        cwd=project,
        env=demo.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(
    project: Path, store: Path, *command: str, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    """A command of Python's typed in the project, over this store, its output and errors as one text."""
    return subprocess.run(
        [*before, project / ".venv/bin/python", *command],
        cwd=project,
        env=demo.environment() | {"STORE_ROOT": str(store)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refusal(result: subprocess.CompletedProcess) -> str:
    """The last sentence, unwrapped, of a command that must have ended with one and exit code 1."""
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stdout, result.stdout
    return demo.unwrap(result.stdout.strip().rpartition("\n\n")[2])


def copy_project(project: Path, into: Path) -> Path:
    """A project of its own that shares the other's virtual environment, and counts as set up."""
    shutil.copytree(project, into, ignore=shutil.ignore_patterns(*demo.LEFTOVERS))
    (into / ".venv").symlink_to(project / ".venv")
    number = subprocess.run(
        "pwd -P | cksum | cut -d' ' -f1", shell=True, cwd=into, capture_output=True, text=True
    )
    (into / ".venv" / f".ready-{number.stdout.strip()}").touch()
    if (into / "dbt").is_dir():
        link = [into / ".venv/bin/jollyboat", "link"]
        subprocess.run(link, cwd=into, env=demo.environment(), check=True)
    return into


def type_in(project: Path, command: str, **environment: str) -> subprocess.CompletedProcess:
    """What a shell in the project answers, output and errors as one text; it stops at the first command that fails."""
    return subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=project,
        env=demo.environment() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_guide(guide: Path) -> Iterator[Step]:
    """The guide's steps in their order; a diff that names no file edits the one before."""
    file = ""
    for actual in STEP.finditer(guide.read_text(encoding="utf-8")):
        file = actual["file"] or file
        yield Step(
            actual["kind"],
            file if actual["kind"] == "diff" else actual["file"] or "",
            actual["text"],
        )


def follow(guide: str, project: Path, **environment: str) -> list[subprocess.CompletedProcess]:
    """Do what the project's guide says, and return what each of its blocks of commands answered."""
    answers = []
    for step in read_guide(project / "docs" / f"{guide}.md"):
        take(step, project)
        if step.kind == "sh":
            answers.append(type_in(project, step.text, **environment))
    return answers


def take(step: Step, project: Path) -> None:
    """Write or edit the step's file, if it has one."""
    if step.kind == "diff":
        edit(project / step.file, step.text)
    elif step.file:
        (project / step.file).parent.mkdir(parents=True, exist_ok=True)
        (project / step.file).write_text(step.text, encoding="utf-8")


def edit(file: Path, diff: str) -> None:
    """Replace the diff's lines of before by those of after; they must stand in the file exactly once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{file} has not, or not once:\n{before}"
    file.write_text(text.replace(before, after), encoding="utf-8")
