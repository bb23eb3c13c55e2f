"""Setting up: with pip alone, on each supported Python at hand, and after a kill in the middle."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import make

import demo

pytestmark = pytest.mark.faults

IMPORTS = "import dbt.cli.main, great_expectations, metaflow, skops.io, xgboost, jollyboat; print(jollyboat.__file__)"


@pytest.fixture
def fresh(project: Path, tmp_path: Path) -> Path:
    """A generated project that is not set up."""
    return Path(
        shutil.copytree(
            project, tmp_path / "a project", ignore=shutil.ignore_patterns(*demo.LEFTOVERS)
        )
    )


def python(minor: int) -> str:
    actual = [
        f"python3.{minor}",
        *sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3"), reverse=True),
    ]
    for candidate in map(str, actual):
        if (
            shutil.which(candidate)
            and not subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode
        ):
            return candidate
    pytest.skip(f"there is no Python 3.{minor} on this machine")


@pytest.mark.parametrize(("minor", "installer"), [(11, "uv"), (12, "uv"), (13, "uv"), (12, "pip")])
def test_every_supported_python_installs_and_imports_and_plain_pip_does_too(
    fresh, minor, installer
):
    result = make(fresh, "setup", f"INSTALLER={installer}", f"PYTHON={python(minor)}")

    assert result.returncode == 0, result.stdout
    imported = subprocess.run(
        [fresh / ".venv/bin/python", "-c", IMPORTS], cwd="/", capture_output=True, text=True
    )
    assert imported.stdout.strip().startswith(str(fresh / ".venv")), imported.stderr


def test_a_set_up_that_was_killed_is_done_again_by_the_same_command(fresh):
    first = subprocess.Popen(
        ["make", "setup"],
        cwd=fresh,
        env=demo.environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (fresh / ".venv/bin").exists():
        time.sleep(0.01)
    time.sleep(1)
    os.killpg(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL

    result = make(fresh, "setup")

    assert result.returncode == 0, result.stdout
    assert "setting up" in result.stdout


def test_a_package_whose_bytes_are_not_those_pinned_is_refused(fresh):
    pins = fresh / "requirements.txt"
    pins.write_text(re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", pins.read_text()))

    assert make(fresh, "setup").returncode == 2
    assert not list((fresh / ".venv").glob(".ready-*"))


def test_an_environment_behind_a_link_belongs_to_another_project_and_stays(fresh, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").touch()
    (fresh / ".venv").symlink_to(theirs)

    result = make(fresh, "setup")

    assert result.returncode == 2 and ".venv is a link. Remove it" in result.stdout
    assert (theirs / "pyvenv.cfg").exists()
