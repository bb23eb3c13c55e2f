"""A generated project does what its Makefile says: its own checks, and what set-up does again."""

from runs import copy_project, make


def test_its_own_lint_passes_once_there_are_data(project, tmp_path):
    own = copy_project(project, tmp_path / "own")
    (own / "data").mkdir()

    result = make(own, "lint")

    assert result.returncode == 0, result.stdout


def test_its_own_tests_pass(project):
    result = make(project, "test")

    assert result.returncode == 0, result.stdout


def test_a_second_setup_installs_nothing(project):
    assert make(project, "setup").stdout == ".venv is ready\n"


def test_a_project_that_was_moved_is_set_up_again(project, tmp_path):
    moved = copy_project(project, tmp_path / "here").rename(tmp_path / "moved")

    assert "setting up" in make(moved, "-n", "data").stdout
