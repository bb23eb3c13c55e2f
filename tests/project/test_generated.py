"""A generated project does what its Makefile says, from its own checks to the whole path without a network."""

import subprocess

import pytest
from runs import copy_project, make

NO_NETWORK = (
    "unshare",
    "--map-root-user",
    "--net",
    "sh",
    "-c",
    'ip link set lo up && exec "$@"',
    "-",
)


def test_its_own_lint_passes_once_there_are_data(project, tmp_path):
    own = copy_project(project, tmp_path / "own")
    (own / "data").mkdir()

    result = make(own, "lint")

    assert result.returncode == 0, result.stdout


def test_its_own_tests_pass(project):
    result = make(project, "test")

    assert result.returncode == 0, result.stdout


@pytest.mark.faults
def test_the_whole_path_runs_without_a_network(project):
    try:
        subprocess.run([*NO_NETWORK, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine gives no network namespace of one's own (unshare, ip)")

    result = make(project, "smoke", before=NO_NETWORK)

    assert result.returncode == 0, result.stdout
    assert '"probability"' in result.stdout or "probability" in result.stdout


def test_a_second_setup_installs_nothing(project):
    assert make(project, "setup").stdout == ".venv is ready\n"


def test_a_project_that_was_moved_is_set_up_again(project, tmp_path):
    moved = copy_project(project, tmp_path / "here").rename(tmp_path / "moved")

    assert "setting up" in make(moved, "-n", "data").stdout
