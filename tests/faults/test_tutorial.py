"""The site's tutorial, followed to the letter from a new project to a champion's answer."""

import re
from pathlib import Path

import pytest
from runs import Step, copy_project, read_guide, take, type_in

import demo

pytestmark = pytest.mark.faults

TUTORIAL = demo.HERE / "docs/tutorial.md"
VARYING = re.compile(r"\b[0-9a-f]{12,}\b|\d[\d,.]*")


@pytest.fixture(scope="module")
def typed(project: Path, tmp_path_factory) -> list[tuple[Step, str]]:
    """The tutorial's steps in a new project, each with what the commands before it printed."""
    own = copy_project(project, tmp_path_factory.mktemp("tutorial") / "lingo")
    steps, printed = [], ""
    for step in read_guide(TUTORIAL):
        take(step, own)
        if step.kind == "sh":
            result = type_in(own, step.text)
            assert result.returncode == 0, result.stdout
            printed = result.stdout
        steps.append((step, printed))
    return steps


def without_figures(text: str) -> str:
    """The text on one line, with # for ids and numbers."""
    return " ".join(VARYING.sub("#", text).split())


def test_commands_print_what_the_tutorial_shows(typed):
    shown = [(step.text, printed) for step, printed in typed if step.kind == "text"]

    assert len(shown) == 6
    for text, printed in shown:
        for part in text.split("..."):
            assert without_figures(part) in without_figures(printed)


def test_the_tutorials_model_learns_what_its_baseline_cannot(typed):
    trained = next(printed for step, printed in typed if step.text == "make train\n")

    assert "logistic chosen on validation" in demo.unwrap(trained)


def test_the_tutorials_request_fits_the_training_data(typed):
    answer = next(printed for step, printed in typed if "/predict" in step.text)

    assert '"status":"predicted"' in answer.replace(" ", "") and "warnings" not in answer
