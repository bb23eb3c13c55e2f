"""`jollyboat add` writes what the guides say, names it, and refuses before it writes."""

import inspect
import shutil
from pathlib import Path

import pytest

from jollyboat import scaffold
from jollyboat.scaffold import examples
from jollyboat.scaffold.candidate import add_to_candidates
from jollyboat.scaffold.source import add_to_sources
from jollyboat.store import LIBRARY, PROJECT, UserError
from jollyboat.store.settings import parse as parse_settings
from jollyboat.testing import check_candidate
from jollyboat.training import estimators
from jollyboat.warehouse.variables import parse as parse_variables

EDITED = ("dbt/dbt_project.yml", "project.toml", "ml/candidates.py", "requirements.in")


@pytest.fixture
def project(tmp_path) -> Path:
    """The files of a new project that the commands edit."""
    for name in EDITED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def texts(project: Path) -> dict[str, str]:
    return {
        str(path.relative_to(project)): path.read_text()
        for path in project.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", [each for each in scaffold.source_kinds() if each != "csv"])
def test_a_source_has_the_staging_model_of_its_guide_and_is_read(project, kind):
    sentences = scaffold.add_source("other", kind, project, project / "data/raw")

    model = (project / "dbt/models/staging/stg_other__events.sql").read_text()
    assert any(model in guide.read_text() for guide in (LIBRARY / "how_to").glob("logs-from-*.md"))
    assert "{{ jollyboat.canonical_events('mapped') }}" in model
    settings = parse_variables((project / "dbt/dbt_project.yml").read_text())
    assert settings.sources == ["web", "orders", "other"]
    assert "data/raw/other/dt=<day of arrival>/" in sentences[-1]


def add_csv(project: Path, **files: str) -> tuple[str, str]:
    """The staging model of a CSV source with these files by day, and what is printed."""
    for day, text in files.items():
        folder = project / f"data/raw/app/dt={day.removeprefix('on_').replace('_', '-')}"
        folder.mkdir(parents=True)
        (folder / "events.csv").write_text(text)
    sentences = scaffold.add_source("app", "csv", project, project / "data/raw")
    return (project / "dbt/models/staging/stg_app__events.sql").read_text(), " ".join(sentences)


def test_a_csvs_model_maps_the_obvious_columns_of_the_newest_and_leaves_the_others(project):
    model, printed = add_csv(
        project,
        on_2026_03_01="old\n1\n",
        on_2026_03_02="eventTime;Visitor ID;type;it's\n2026-03-02;v1;open;1\n",
    )

    assert "        'app' as tenant_id,\n        record ->> 'eventTime' as occurred_at,\n" in model
    assert "record ->> 'Visitor ID' as anonymous_id,\n        null as event_type\n" in model
    assert "        -- record ->> 'type' as name_it,\n        -- record ->> 'it''s' as" in model
    assert "old" not in model
    assert "eventTime as occurred_at, Visitor ID as anonymous_id;" in printed
    assert "required and null: event_type (what happened)" in printed


def test_a_csvs_model_without_a_file_has_examples(project):
    model, printed = add_csv(project)

    assert "record ->> 'timestamp' as occurred_at" in model
    assert "{{ jollyboat.canonical_events('mapped') }}" in model
    assert "There is no CSV of this source yet" in printed


def test_a_csvs_model_has_no_column_that_would_break_it(project):
    model, _ = add_csv(project, on_2026_03_01='ts,"{{ a",b\x07c,$d\n2026-03-01,1,2,3\n')

    assert "{{ a" not in model and "\x07" not in model
    assert """-- record ->> '$."$d"' as name_it""" in model


@pytest.mark.parametrize("name", ["Web2", "web-2", "2web", "../x", "web", "labels"])
def test_a_source_with_a_wrong_or_taken_name_is_refused_and_nothing_is_written(project, name):
    before = texts(project)

    with pytest.raises(UserError, match=r"is no name of a source|has a source \w+ already"):
        scaffold.add_source(name, "ga4", project, project / "data/raw")

    assert texts(project) == before


@pytest.mark.parametrize(
    "sources", ["[web]", "[web, orders]  # both", "\n  - web\n  - orders", "\n    - web  # first"]
)
def test_a_list_of_sources_is_edited_in_the_form_that_it_has(sources):
    text = f"name: a\nvars:\n  sources: {sources}\n  outcome: 'true'  # always\n"

    edited = add_to_sources(text, "app")

    assert set(edited.splitlines()) >= {"name: a", "  outcome: 'true'  # always"}
    assert "app" in edited


def test_a_candidate_is_a_function_of_the_project_in_the_list(project):
    sentences = scaffold.add_candidate("trees", "sklearn", project)

    assert "def trees(X, y" in (project / "ml/candidates.py").read_text()
    settings = parse_settings((project / "project.toml").read_text())
    assert settings.train.candidates[-1] == "trees"
    assert sentences[-1].endswith("Then run `make train`.")


def test_the_package_of_a_candidate_is_required_once(project):
    for name in ("first", "second"):
        sentences = scaffold.add_candidate(name, "lightgbm", project)

    lines = (project / "requirements.in").read_text().splitlines()
    assert lines.count("lightgbm") == 1
    assert "`jollyboat pins`, then `make setup`" in sentences[1]


@pytest.mark.parametrize("name", ["Trees", "class", "xgboost", "np", "make_pipeline"])
def test_a_candidate_with_a_wrong_or_taken_name_is_refused_and_nothing_is_written(project, name):
    before = texts(project)

    with pytest.raises(UserError, match=r"is no name of a candidate|means something in ml/"):
        scaffold.add_candidate(name, "sklearn", project)

    assert texts(project) == before


@pytest.mark.parametrize("names", ['["a"]', '[\n    "a",\n]', '["a",]'])
def test_a_list_of_candidates_is_edited_in_the_form_that_it_has(names):
    assert '"b"' in add_to_candidates(f"[train]\ncandidates = {names} # simplest first\n", "b")


@pytest.mark.parametrize("kind", scaffold.candidate_kinds())
def test_an_example_is_the_one_of_the_guide(kind):
    guide = (PROJECT / "docs/add-a-candidate.md").read_text()
    lines = [line for line in inspect.getsource(getattr(examples, kind)).splitlines() if line]

    assert all(f"+{line}" in guide for line in lines[2:] if "import" not in line)


def test_the_example_of_scikit_learn_is_a_candidate(monkeypatch):
    monkeypatch.setattr(estimators, "find_candidate", lambda _: examples.sklearn)

    check_candidate("sklearn")
