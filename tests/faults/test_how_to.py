"""The library's guides are followed to the letter: all of them in one project, the outcome's in another."""

import shutil
from pathlib import Path

import pytest
from runs import copy_project, read_guide, take, type_in

from demo import HERE, unwrap
from jollyboat.review.review import read_guidelines

pytestmark = pytest.mark.faults

GUIDES = HERE / "docs/how-to"
TOGETHER = [
    "add-a-lookup",
    "add-an-expectation",
    "add-a-gate-check",
    "add-a-step",
    "change-a-page",
    "replace-a-file",
    "send-alerts-elsewhere",
    "remove-a-feature",
    "review-sessions",
]
LOGS = ".venv/bin/jollyboat simulate --days 14 --sessions-per-day 400"


@pytest.fixture(scope="module")
def shop(project: Path, tmp_path_factory) -> Path:
    """A project with two weeks of simulated logs, in which nothing has been built."""
    copy = copy_project(project, tmp_path_factory.mktemp("shop") / "shop")
    result = type_in(copy, LOGS)
    assert result.returncode == 0, result.stdout
    return copy


def test_every_guide_is_followed_here():
    # tests/project follows the guides to a question and to a cluster.
    others = {"change-the-outcome", "what-is-public", "add-a-question", "serve-many-customers"}
    others |= {"share-data-in-a-bucket"}  # test_two_machines.py
    others |= {"troubleshooting"}  # tests/library/test_troubleshooting.py
    others |= {"run-on-a-cluster"}
    others |= {"upgrade"}  # test_newer_version.py
    others |= {"personal-data"}  # test_erase.py, and the tests of hashes
    others |= {"build-on-spark", "portable-sql"}  # test_spark.py
    guides = {guide.stem for guide in GUIDES.glob("*.md")}

    # test_export_guides.py follows the guides to common exports.
    assert {name for name in guides if not name.startswith("logs-from-")} == {*TOGETHER, *others}


@pytest.fixture(scope="module")
def followed(shop: Path, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The project after all guides but the outcome's, and what each of their commands printed.

    The pipeline's verbs are typed once, after all edits: each guide asks for some of them.
    """
    own, printed = tmp_path_factory.mktemp("followed") / "shop", {}
    copy_project(shop, own)
    shutil.copytree(shop / "data", own / "data")
    verbs = set()
    for name in TOGETHER:
        for step in read_guide(GUIDES / f"{name}.md"):
            take(step, own)
            for command in step.text.splitlines() if step.kind == "sh" else []:
                if command.startswith("make "):
                    verbs |= set(command.split()[1:])
                elif "event_counts" not in command and "grep" not in command:
                    printed[command] = type_in(own, command).stdout
    assert verbs == {"data", "train", "deploy", "monitor", "test"}
    for verb in ("data", "train", "deploy", "monitor", "test"):
        result = type_in(own, f"make {verb}")
        assert result.returncode == 0, result.stdout
        printed[verb] = result.stdout
    return own, printed


def test_a_lookup_is_published_and_its_feature_is_learned(followed):
    own, _ = followed

    assert list((own / "data/tables/lookup_category").rglob("*.parquet"))
    (schema,) = (own / "data/models/shared").glob("*/schema.json")
    assert "category_popularity" in schema.read_text()
    assert "seconds_so_far" not in schema.read_text()


def test_an_expectation_is_shown_with_the_tables_that_it_judges(followed):
    own, _ = followed

    assert (
        "no discount is above 90"
        in (own / "data/reports/data_docs/session_features.html").read_text()
    )


def test_a_check_of_the_project_is_asked_by_the_gate(followed):
    _, printed = followed

    assert "clear_lead" in printed["deploy"]
    facts = next(text for command, text in printed.items() if "help(Facts)" in command)
    assert "against_baseline" in facts


def test_a_step_of_the_project_runs_in_the_flow(followed):
    own, printed = followed

    assert "export counts" in printed["data"]
    assert (own / "data/event_counts.csv").read_text().startswith("source,event_count\n")


def test_a_page_of_the_project_comes_before_the_librarys(followed):
    own, printed = followed

    (page,) = (own / "data/runs").glob("*/report.html")
    assert "Questions: the channel #shop-models." in page.read_text()
    assert any("run\nruns\nscores\n" in text for text in printed.values())
    assert any("{% extends" in text for text in printed.values())


def test_the_guidelines_of_the_team_are_shown_with_each_session(followed):
    own, _ = followed

    staff, gift = read_guidelines(own)

    assert "our own staff" in staff and "A gift" in gift


def test_a_copied_model_replaces_the_librarys(followed):
    own, printed = followed

    assert any("wrote dbt/models/marts/sessions.sql" in text for text in printed.values())
    (compiled,) = (own / "data/dbt/target/run").rglob("sessions.sql")
    assert "like 'test-%'" in compiled.read_text()


def test_an_incident_reaches_the_projects_command(followed):
    own, _ = followed

    assert (own / "data/incidents.txt").read_text().strip()


def test_a_removed_feature_that_an_expectation_names_is_refused_before_the_build(shop, tmp_path):
    own = copy_project(shop, tmp_path / "shop")
    shutil.copytree(shop / "data", own / "data")
    steps = [step for step in read_guide(GUIDES / "remove-a-feature.md") if step.kind == "diff"]
    for step in steps:
        if not step.file.startswith("expectations/"):
            take(step, own)

    result = type_in(own, "make data")

    assert result.returncode != 0
    assert "about the column seconds_so_far" in unwrap(result.stdout)
    assert not (own / "data/warehouse.duckdb").exists()


def test_another_outcome_is_learned_and_decided_as_its_guide_says(shop, tmp_path):
    own = copy_project(shop, tmp_path / "shop")
    shutil.copytree(shop / "data", own / "data")
    for step in read_guide(GUIDES / "change-the-outcome.md"):
        take(step, own)
        if step.kind == "sh":
            result = type_in(own, step.text)
            assert result.returncode == 0, result.stdout

    assert "is now the champion of shared" in unwrap(result.stdout)


def test_many_customers_are_listed_decided_about_added_and_removed(project, tmp_path):
    shop, printed = copy_project(project, tmp_path / "shop"), []
    for step in read_guide(GUIDES / "serve-many-customers.md"):
        take(step, shop)
        if step.kind == "sh":
            result = type_in(shop, step.text)
            assert result.returncode == 0, result.stdout
            printed.append(unwrap(result.stdout))

    _, listed, decided, added, removed = printed
    assert "12 of 12 tenants" in listed and "shop-0001 status" in " ".join(listed.split())
    assert "the shared model answers shop-0002" in decided and "shop-0003 until" in decided
    assert "status new" in " ".join(added.split()) and "sessions 1;" in " ".join(added.split())
    assert "erased" in removed
    assert not list((shop / "data/models").glob("new-shop*"))
