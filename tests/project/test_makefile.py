"""The verbs are listed, and every command that a document advertises is there."""

import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import click
import pytest
from runs import make

import demo
from jollyboat.cli.main import jollyboat
from jollyboat.simulate.simulate import simulate
from tools import size

VERBS = {
    *("help", "setup", "simulate", "data", "train", "deploy", "serve", "score", "monitor"),
    *("pipeline", "smoke", "test", "lint", "docs", "clean", "upgrade"),
}
COMMAND = re.compile(r"jollyboat ((?:[a-z]+ ?)+)")
# Stands in for the tools, so that a verb shows what it would call them with.
CALLED_WITH = ("READY=", "PY=printf '<%s>'")
DOCUMENTS = sorted([*demo.HERE.glob("*.md"), *demo.HERE.glob("docs/*.md")])
GENERATED = [path for path in demo.template_files() if path.parts[0] == demo.TEMPLATE]
GENERATED_DOCUMENTS = [demo.HERE / path for path in GENERATED if path.suffix == ".md"]


def verbs(folder: Path) -> dict[str, str]:
    """Each verb with its line, as `make` alone lists them."""
    result = make(folder).stdout
    return dict(re.findall(r"^make ([a-z-]+) +(\S.*)$", result, re.MULTILINE))


def advertised(document: Path) -> set[str]:
    """The verbs in a document's code: `make x`, and lines of blocks."""
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
    return set(re.findall(r"\bmake (?:-C \S+ )?([a-z][a-z-]*)", code))


def commands(document: Path) -> list[list[str]]:
    """The commands in a document's code that follow the word `jollyboat`, as words without options."""
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
    return [actual.split() for actual in COMMAND.findall(code)]


def test_make_alone_lists_the_pipelines_verbs_with_a_line_each():
    assert set(verbs(demo.HERE / demo.TEMPLATE)) == VERBS


def test_the_templates_own_verbs_are_listed():
    assert {
        "demo",
        "test",
        "test-faults",
        "test-cluster",
        "lint",
        "bench",
        "size",
        "release",
        "clean",
    } <= set(verbs(demo.HERE))


def test_a_tenants_id_is_taken_as_it_was_typed():
    typed = "a`echo b`$RC \"'d"

    result = make(demo.HERE / demo.TEMPLATE, "score", *CALLED_WITH, f"TENANT={typed}").stdout

    assert f"<--tenant><{typed}>" in result


def test_a_reason_is_taken_as_it_was_typed():
    result = make(demo.HERE / demo.TEMPLATE, "deploy", *CALLED_WITH, "FORCE=saves $500 a day")

    assert "<--force><saves $500 a day>" in result.stdout


def test_force_is_about_one_question():
    several = "QUESTION=purchase_intent churn"

    result = make(demo.HERE / demo.TEMPLATE, "deploy", *CALLED_WITH, several, "FORCE=two words")

    assert result.returncode == 2 and "deploy.py" not in result.stdout
    assert "FORCE needs QUESTION=: one of purchase_intent churn" in result.stdout


def test_where_one_question_cannot_be_trained_the_pipeline_goes_on_and_fails_at_its_end():
    several, fails = "QUESTION=purchase_intent churn", "PY=sh -c 'echo $$0 $$*; test $$0$$3 != {}'"
    fails = fails.format("flows/train.pypurchase_intent")

    result = make(demo.HERE / demo.TEMPLATE, "pipeline", "READY=", fails, several)

    called = re.findall(r"flows/(\w+).py run(?: --question (\w+))?$", result.stdout, re.MULTILINE)
    assert result.returncode == 2
    assert [each for each in called if each != ("data", "")] == [
        *[(flow, "purchase_intent") for flow in ("train", "score")],
        *[(flow, "churn") for flow in ("train", "deploy", "score")],
    ]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            ["score", "TENNANT=x"],
            "`make score` does not know the variable TENNANT; did you mean TENANT?",
        ),
        (["data", "AUTO=1"], "`make data` does not know the variable AUTO. It knows PERSONAL_SALT"),
        (["clean", "TENANT=x"], "`make clean` does not know the variable TENANT. It knows VENV"),
        (["X=1"], "`make help` does not know the variable X."),
    ],
)
def test_a_variable_that_a_verb_does_not_know_is_refused_with_those_it_knows(typed, sentence):
    result = make(demo.HERE / demo.TEMPLATE, *typed, *CALLED_WITH)

    assert result.returncode == 2
    assert sentence in result.stdout
    assert "printf" not in result.stdout


def test_a_variable_of_the_environment_scores_no_single_tenant(monkeypatch):
    monkeypatch.setenv("TENANT", "acme")

    assert "acme" not in make(demo.HERE / demo.TEMPLATE, "score", *CALLED_WITH).stdout


@pytest.mark.parametrize("value", ["0", "1"])
def test_what_auto_says_reaches_the_flow(value):
    result = make(demo.HERE / demo.TEMPLATE, "monitor", *CALLED_WITH, f"AUTO={value}").stdout

    assert f"<--auto><{value}>" in result


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_of_the_template_advertises_verbs_that_exist(document):
    assert advertised(document) <= {*verbs(demo.HERE), *verbs(demo.HERE / demo.TEMPLATE)}


@pytest.mark.parametrize("document", GENERATED_DOCUMENTS, ids=lambda path: path.name)
def test_a_document_of_the_generated_project_advertises_what_exists(document):
    folder = demo.HERE / demo.TEMPLATE
    files = re.findall(r"python3? ((?:flows|docs|tests)/\S+\.py)", document.read_text())

    assert advertised(document) <= set(verbs(folder))
    assert [name for name in files if not (folder / name).exists()] == []
    assert [words for words in commands(document) if not is_command(jollyboat, words)] == []


def is_command(command: click.Command, words: list[str]) -> bool:
    """Whether the words name a command, and what follows its name can only be its arguments."""
    if not words or not isinstance(command, click.Group):
        return True
    return words[0] in command.commands and is_command(command.commands[words[0]], words[1:])


@pytest.mark.parametrize("python", ["python3", "nowhere"])
def test_an_unsupported_python_is_refused_before_anything_is_installed(tmp_path, template, python):
    folder = tmp_path / "project"
    shutil.copytree(template / demo.TEMPLATE, folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "python3").chmod(0o755)

    result = subprocess.run(
        ["make", "data", f"PYTHON={tmp_path}/bin/{python}"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=demo.environment(),
    )

    assert result.returncode == 2
    assert "This runs on Python 3.11, 3.12 or 3.13" in result.stderr
    assert not (folder / ".venv").exists()


def test_clean_leaves_raw_logs_that_were_not_simulated(tmp_path, template):
    folder = tmp_path / "project"
    shutil.copytree(template / demo.TEMPLATE, folder)
    day = date(2026, 1, 1)
    size = {"seed": 7, "start": day, "days": 1, "sessions_per_day": 20}
    simulate(folder / "data/raw", folder / "data/truth.parquet", **size)
    web = f"data/raw/web/dt={day}"
    kept, removed = (
        ["data/raw/mine/dt=1/a.jsonl", "data/live/a", f"{web}/mine.jsonl", "data/raw/web/dt=1/a"],
        [
            f"{web}/events.jsonl.gz",
            "data/raw/orders",
            "data/warehouse.duckdb",
            "data/simulated.txt",
        ],
    )
    for name in [*kept, "data/warehouse.duckdb"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert all((folder / name).exists() for name in [*kept, *removed])

    assert make(folder, "clean").returncode == 0
    assert [name for name in [*kept, *removed] if (folder / name).exists()] == kept


def test_a_generated_project_stays_small():
    files, lines, _ = size.measure(demo.TEMPLATE)

    assert files.total() <= 50
    assert lines.total() <= 2000
    assert f"{lines.total():,} lines" in make(demo.HERE, "size").stdout


def test_a_project_that_is_entered_through_a_link_keeps_its_environment(tmp_path):
    (tmp_path / "link").symlink_to(demo.HERE / demo.TEMPLATE)
    name = ["make", "--no-print-directory", "--eval", "name:;@echo $(READY)", "name"]

    names = {
        subprocess.check_output(name, cwd=path, env=demo.environment() | {"PWD": str(path)})
        for path in (demo.HERE / demo.TEMPLATE, tmp_path / "link")
    }

    assert 1 == len(names) and b".ready-" in names.pop()
