"""project.toml is one typed object: a wrong entry is refused by key and value."""

import os
import subprocess
import sys
from datetime import date

import pytest
from whole_path import run

from jollyboat.store import PROJECT, Store, UserError, project, project_settings, settings

TEXT = (PROJECT / "project.toml").read_text(encoding="utf-8")
WRONG = {  # what is replaced, by what, and the sentence
    "a name": (
        "latency_ms = 250",
        "latencyms = 250",
        "[gate] has no setting latencyms. Did you mean latency_ms?",
    ),
    "a name of a table in a table": (
        "[review]",
        "[resources.train.fit]\ncpus = 2\n[review]",
        "[resources.train.fit] has no setting cpus.",
    ),
    "a foreign name": (
        "keep = 10",
        "keep = 10\nzzz = 1",
        "[deploy] has no setting zzz. There are keep.",
    ),
    "a type": (
        "keep = 10",
        'keep = "ten"',
        '[deploy] keep is "ten"; it should be a valid integer.',
    ),
    "a whole number": (
        "keep = 10",
        "keep = 1.5",
        "[deploy] keep is 1.5; it should be a valid integer.",
    ),
    "a truth value": (
        "keep = 10",
        "keep = true",
        "[deploy] keep is true; it should be a valid integer.",
    ),
    "a range": (
        "keep = 10",
        "keep = 0",
        "[deploy] keep is 0; it should be greater than or equal to 1.",
    ),
    "an infinity": (
        "psi = 0.1",
        "psi = inf",
        "[monitor] psi is Infinity; it should be a finite number.",
    ),
    "an item": ("windows = [1, 7]", "windows = [1, 0]", "[monitor] windows[1] is 0; it should"),
    "a list": (
        "windows = [1, 7]",
        "windows = []",
        "[monitor] windows is []; List should have at least 1",
    ),
    "a date": (
        '"2026-01-01"',
        '"2026-13-01"',
        '[simulate] start is "2026-13-01"; it should be a valid date',
    ),
    "two that do not fit": (
        "validation = 0.2",
        "validation = 0.5",
        "[split] train and validation leave",
    ),
    "a missing name": ("keep = 10", "", "[deploy] keep is missing. Write a line keep = ... there."),
    "a section": ("[gate]", "[gatte]", "section [gate] is missing. Did you mean gatte?"),
    "no section": (
        "[project]",
        "days = 3\n[project]",
        "days is 3; it should be a section, [days].",
    ),
    "syntax": ("keep = 10", "keep = ", "is not valid TOML: Invalid value (at line"),
}


def broken(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def test_the_projects_own_settings_are_typed():
    actual = project_settings()

    assert actual.simulate.start == date(2026, 1, 1)
    assert 0 < actual.split.train + actual.split.validation < 1
    assert actual.train.candidates


@pytest.mark.parametrize(("old", "new", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_entry_is_one_sentence_with_file_key_value_and_what_would_do(old, new, sentence):
    with pytest.raises(UserError) as refused:
        settings.parse(broken(old, new))

    assert str(refused.value).startswith("project.toml") and "\n" not in str(refused.value)
    assert sentence in str(refused.value)


def test_any_other_table_is_a_candidates_own():
    actual = settings.parse(f"{TEXT}\n[bayes]\nstrength = 1\ndeep = {{ a = 1 }}\n")

    assert actual.model_dump()["bayes"] == {"strength": 1, "deep": {"a": 1}}


def test_settings_survive_the_way_through_json():
    actual = project_settings()

    assert settings.check(actual.model_dump(mode="json")) == actual


def test_the_projects_file_is_named_where_it_is_wrong_or_gone(tmp_path, monkeypatch):
    wrong = broken("sessions_per_day = 800", "sessions_per_day = -1")
    (tmp_path / "project.toml").write_text(wrong)
    monkeypatch.setattr(project, "PROJECT", tmp_path)

    with pytest.raises(UserError, match=r"\[simulate\] sessions_per_day is -1"):
        project_settings()
    (tmp_path / "project.toml").unlink()
    with pytest.raises(UserError, match=r"project.toml cannot be read"):
        project_settings()


@pytest.mark.parametrize("flow", ["data", "train", "deploy", "score", "monitor"])
def test_a_flow_names_what_is_wrong_without_a_traceback(tmp_path, flow):
    wrong = tmp_path / "project.toml"
    wrong.write_text(broken("latency_ms = 250", "latencyms = 250"))

    command = [f"flows/{flow}.py", "--config", "project", str(wrong), "run"]
    result = run(Store(tmp_path / "data"), *command)

    assert result.returncode == 1
    assert "Did you mean latency_ms?" in result.stderr and "Traceback" not in result.stderr


def test_a_command_started_as_a_module_works_for_the_project_of_the_working_directory(tmp_path):
    for name in ("project.toml", "dbt/dbt_project.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    code = "import runpy, sys; sys.argv = ['jollyboat', '--help']; "
    code += "from jollyboat.store import PROJECT; print(PROJECT)"
    environment = {name: value for name, value in os.environ.items() if name != "JOLLYBOAT_PROJECT"}

    by_code, by_module = (
        subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        for command in (["-c", code], ["-m", "jollyboat.cli", "status"])
    )

    assert by_code.stdout.strip() == str(tmp_path.resolve())
    assert "snapshot    none" in by_module.stdout, by_module.stderr
