"""A copy of the template without what work leaves in its folder, and projects generated from it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
def project(template: Path, tmp_path_factory) -> Path:
    """A generated project, set up."""
    folder = tmp_path_factory.mktemp("generated")
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(folder), str(template)]
    subprocess.run(command, env=os.environ | {"HOME": str(folder)}, check=True)
    said = make(folder / "shop_intent", "setup")
    assert said.returncode == 0, said.stdout
    return folder / "shop_intent"


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
