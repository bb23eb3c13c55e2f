"""Copies of a generated project that are typed into, and guides that are followed to the letter."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import demo

JOLLYBOAT = ("-m", "jollyboat.cli")  # the command `jollyboat`, for a project's Python
LOGS = demo.HERE.parent / "shared" / "data"  # real ones, with their notes
STAGING = Path(__file__).parent / "real_logs"
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
        **_typed(project, store, [*before, project / ".venv/bin/python", *command])
    )


def start(project: Path, store: Path, *command: str) -> subprocess.Popen:
    """The same command, which goes on in a group of processes of its own."""
    typed = _typed(project, store, [project / ".venv/bin/python", *command])
    return subprocess.Popen(**typed, start_new_session=True)


def _typed(project: Path, store: Path, command: list) -> dict:
    return {
        "args": command,
        "cwd": project,
        "env": demo.environment() | {"STORE_ROOT": str(store)},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


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


def bring(project: Path, source: str, point: int, logs: Path = LOGS) -> int:
    """Do what docs/bring-your-own-logs.md says, the files linked rather than copied; the number of lines changed."""
    for file in (logs / source).glob("events*"):
        day = re.search(r"\d{4}-\d\d-\d\d", file.name)
        folder = project / "data/raw" / source / f"dt={day[0] if day else '2020-04-30'}"
        folder.mkdir(parents=True)
        (folder / file.name).symlink_to(file)
    model = f"stg_{source}__events.sql"
    shutil.copy(STAGING / model, project / "dbt/models/staging" / model)
    settings = project / "dbt/dbt_project.yml"
    before = settings.read_text()
    after = re.sub(r"^  sources: .*$", f"  sources: [{source}]", before, flags=re.MULTILINE)
    after = re.sub(
        r"^  prediction_points: .*$", f"  prediction_points: [{point}]", after, flags=re.MULTILINE
    )
    settings.write_text(after)
    edited = sum(
        old != new for old, new in zip(before.splitlines(), after.splitlines(), strict=True)
    )
    return edited + len((STAGING / model).read_text().splitlines())
