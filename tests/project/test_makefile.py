"""The verbs are listed, and every command that a document advertises is there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from runs import make

import demo

PROMISED = {
    *("setup", "simulate", "data", "train", "deploy", "serve", "score"),
    *("compare", "rollback", "models", "snapshots", "erase"),
    *("pipeline", "smoke", "test", "lint", "docs", "clean", "size"),
    *("monitor", "challenger", "experiment", "promote", "stop-experiment", "ui", "review"),
}
DOCUMENTS = sorted([*demo.HERE.glob("*.md"), *demo.HERE.glob("docs/*.md")])
GENERATED_DOCUMENTS = [demo.HERE / path for path in demo.template_files() if path.suffix == ".md"]


def verbs(folder: Path) -> dict[str, str]:
    """Each verb with its line, as `make` alone lists them."""
    said = make(folder).stdout
    return dict(re.findall(r"^make ([a-z-]+) +(\S.*)$", said, re.MULTILINE))


def advertised(document: Path) -> set[str]:
    """The verbs in a document's code: `make x`, and lines of blocks."""
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
    return set(re.findall(r"\bmake (?:-C \S+ )?([a-z][a-z-]*)", code))


def test_make_alone_lists_every_promised_verb_with_a_line_each():
    assert set(verbs(demo.HERE / demo.TEMPLATE)) >= PROMISED


def test_the_templates_own_verbs_are_listed():
    assert {"demo", "test", "test-faults", "lint", "bench", "size", "clean"} <= set(verbs(demo.HERE))


def test_an_id_that_is_to_be_erased_is_taken_as_it_was_typed():
    typed = "a`echo b`$RC \"'d"

    said = make(demo.HERE / demo.TEMPLATE, "erase", "READY=", "PY=printf '<%s>'", f"PERSON={typed}").stdout

    assert f"<--person><{typed}>" in said


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_of_the_template_advertises_verbs_that_exist(document):
    assert advertised(document) <= {*verbs(demo.HERE), *verbs(demo.HERE / demo.TEMPLATE)}


@pytest.mark.parametrize("document", GENERATED_DOCUMENTS, ids=lambda path: path.name)
def test_a_document_of_the_generated_project_advertises_what_exists(document):
    folder = demo.HERE / demo.TEMPLATE
    files = re.findall(r"python3? ((?:flows|docs|tests)/\S+\.py)", document.read_text())
    modules = re.findall(r"python3? -m (jollyboat[\w.]*)", document.read_text())

    assert advertised(document) <= set(verbs(folder))
    assert [name for name in files if not (folder / name).exists()] == []
    places = {name: demo.HERE / "src" / name.replace(".", "/") for name in modules}
    assert [name for name, place in places.items() if not (place.is_dir() or place.with_suffix(".py").exists())] == []


@pytest.mark.parametrize("python", ["python3", "nowhere"])
def test_an_unsupported_python_is_refused_before_anything_is_installed(tmp_path, template, python):
    folder = tmp_path / "project"
    shutil.copytree(template / demo.TEMPLATE, folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "python3").chmod(0o755)

    said = subprocess.run(
        ["make", "data", f"PYTHON={tmp_path}/bin/{python}"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=demo.environment(),
    )

    assert said.returncode == 2
    assert "This runs on Python 3.11, 3.12 or 3.13" in said.stderr
    assert not (folder / ".venv").exists()


def test_clean_leaves_raw_logs_that_were_not_simulated(tmp_path, template):
    folder = tmp_path / "project"
    shutil.copytree(template / demo.TEMPLATE, folder)
    kept, removed = ["data/raw/mine/dt=1/a.jsonl", "data/live/a"], ["data/raw/web/dt=1/a", "data/warehouse.duckdb"]
    for name in [*kept, *removed, "data/simulated.json"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()

    assert make(folder, "clean").returncode == 0
    assert [name for name in [*kept, *removed] if (folder / name).exists()] == kept


def test_size_counts_every_file_and_line_but_those_of_the_tests_and_the_pins():
    said = make(demo.HERE / demo.TEMPLATE, "size").stdout

    below = [path.relative_to(demo.TEMPLATE) for path in demo.template_files() if path.parts[0] == demo.TEMPLATE]
    tests = {"tests", "unit_tests"}
    counted = [path for path in below if tests.isdisjoint(path.parts) and path.name != "requirements.txt"]
    lines = sum((demo.HERE / demo.TEMPLATE / path).read_text().count("\n") for path in counted)
    assert (len(counted), lines) == tuple(
        map(int, re.search(r"without tests +(\d+) files +(\d+) lines", said).groups())
    )
