"""A copy of the template without what work leaves in its folder, and projects generated from it."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# The library's tests run it on the template in place.
os.environ.setdefault(
    "JOLLYBOAT_PROJECT", str(Path(__file__).parents[1] / "{{cookiecutter.project_slug}}")
)
# The host of a TestClient; the servers that tests start get it, too.
os.environ["ALLOWED_HOSTS"] = "testserver"

import pytest
from runs import JOLLYBOAT, make, run

import demo


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "clone"
    demo.copy_template(folder)
    return folder


@pytest.fixture
def ask(template: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Cookiecutter, given answers by name or typed at its prompts, with `out` as the folder to generate in."""
    (tmp_path / "around" / "out").mkdir(parents=True)

    def run(*, typed: list[str] | None = None, **answers: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "cookiecutter", str(template)]
        if typed is None:
            command += ["--no-input", *(f"{name}={answer}" for name, answer in answers.items())]
        home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "COLUMNS": "200"}
        return subprocess.run(
            command,
            cwd=tmp_path / "around" / "out",
            env=os.environ | home,
            input="\n".join([*(typed or []), ""]),
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """The parent of the folder that projects are generated in."""
    return tmp_path / "around"


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder of this name, filled by the first of the processes that share the tests; the others wait and find it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def fill_once(name: str, fill: Callable[[Path], None]) -> Path:
        filled = shared / f"{name}.filled"
        with filled.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not filled.exists():
                shutil.rmtree(shared / name, ignore_errors=True)  # of a process that failed
                (shared / name).mkdir()
                fill(shared / name)
                filled.touch()
        return shared / name

    return fill_once


@pytest.fixture(scope="session")
def project(template: Path, once) -> Path:
    """A generated project, set up."""

    def generate(folder: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "cookiecutter",
            "--no-input",
            "-o",
            str(folder),
            str(template),
        ]
        subprocess.run(command, env=os.environ | {"HOME": str(folder)}, check=True)
        result = make(folder / "shop_intent", "setup")
        assert result.returncode == 0, result.stdout

    return once("generated", generate) / "shop_intent"


@pytest.fixture(scope="session")
def untouched(template: Path, project: Path, tmp_path_factory) -> Path:
    """The template's folder as it is, with a set-up environment, to be run in place and not to be changed."""
    folder = tmp_path_factory.mktemp("in_place") / demo.TEMPLATE
    shutil.copytree(template / demo.TEMPLATE, folder)
    (folder / ".venv").symlink_to(project / ".venv")
    return folder


@pytest.fixture(scope="session")
def built(untouched: Path, once) -> Path:
    """A store that has gone from logs to a champion and scores; look, do not touch."""

    def build(store: Path) -> None:
        raw = ["--raw", str(store / "raw"), "--truth", str(store / "truth.parquet")]
        result = run(
            untouched,
            store,
            *JOLLYBOAT,
            "simulate",
            "--days",
            "8",
            "--sessions-per-day",
            "1000",
            *raw,
        )
        for verb in ("data", "train", "deploy", "score"):
            assert result.returncode == 0, result.stdout
            result = run(untouched, store, f"flows/{verb}.py", "run")
        assert result.returncode == 0, result.stdout

    return once("built", build)


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """A copy of that store, to be broken."""
    return Path(shutil.copytree(built, tmp_path / "store"))
