"""The guides of a generated project hold: each is followed to the letter, and the example script is run."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import jinja2
import numpy as np
import pytest
from runs import copy_project, follow, read_guide, take, type_in

import demo
from demo import TEMPLATE, unwrap
from jollyboat.store import hash_text

HEADERS = [
    ["when", "visitor", "action", "screen", "price"],
    ["plan", "when", "visitor", "action", "screen", "price"],
    ["visitor", "when", "action", "view"],
]


@pytest.fixture(scope="module")
def shop(project: Path, tmp_path_factory) -> Path:
    """A project that has learned from two weeks of simulated logs."""
    copy = copy_project(project, tmp_path_factory.mktemp("shop") / "shop")
    result = type_in(
        copy, ".venv/bin/jollyboat simulate --days 14 --sessions-per-day 800; make data train"
    )
    assert result.returncode == 0, result.stdout
    return copy


def test_the_example_script_draws_two_plots_of_a_snapshot_and_a_run(shop):
    result = type_in(shop, ".venv/bin/python docs/explore.py", STORE_ROOT=str(shop / "data"))

    assert result.returncode == 0, result.stdout
    assert "Warning" not in result.stdout
    assert {"outcome_by_last_event.png", "calibration.png"} == {
        plot.name for plot in (shop / "data/explore").iterdir()
    }


@pytest.mark.faults
def test_a_feature_is_added_as_its_guide_says(shop, tmp_path):
    project = copy_with_data(shop, tmp_path / "shop")

    learned, worth, served = follow("add-a-feature", project)

    assert learned.returncode == 0, learned.stdout
    importance = dict(line.split() for line in worth.stdout.splitlines())
    assert {"baseline", "logistic", "xgboost"} == set(importance)
    assert max(float(figure) for figure in importance.values()) > 0
    assert served.returncode == 0, served.stdout
    assert "0 values of all features differ" in unwrap(served.stdout)
    assert "\n200 {" in served.stdout
    (champion,) = (project / "data/models/shared").glob("*/schema.json")
    assert "checkout_count" in {
        feature["name"] for feature in json.loads(champion.read_text())["features"]
    }


@pytest.mark.faults
def test_a_candidate_is_added_as_its_guide_says(shop, tmp_path):
    project = copy_with_data(shop, tmp_path / "shop")

    installed, trained, served = follow("add-a-candidate", project)

    assert installed.returncode == 0, installed.stdout
    assert trained.returncode == 0, trained.stdout
    assert {"histogram", "lightgbm"} <= {line.split(" ")[0] for line in trained.stdout.splitlines()}
    assert "\n200 {" in served.stdout
    for name in ("histogram", "lightgbm"):
        assert_serves_as_trained(name, project)


def assert_serves_as_trained(name: str, project: Path) -> None:
    """A bundle of this candidate passes the checks of the gate that need a server."""
    settings = project / "project.toml"
    names = re.compile(r"^candidates = \[.*?\]", re.MULTILINE)
    settings.write_text(names.sub(f'candidates = ["baseline", "{name}"]', settings.read_text()))
    result = type_in(project, "make train; make deploy || true")

    run = json.loads((project / "data/runs/latest.json").read_text())["run"]
    (bundle,) = [
        each.parent
        for each in (project / "data/models/shared").glob("*/manifest.json")
        if json.loads(each.read_text())["run"] == run
    ]
    decision = json.loads(bundle.with_name(f"{bundle.name}-gate.json").read_text())["decision"]
    checks = {check["name"]: check["passed"] for check in decision["checks"]}
    assert checks["serves_as_trained"] and checks["smoke"], result.stdout


@pytest.mark.faults
def test_own_logs_become_a_decision_as_their_guide_says(project, tmp_path):
    """Semicolons, no session id, no orders, one tenant, own event names, columns that come and go, another outcome."""
    own = copy_project(project, tmp_path / "own")
    rows, sessions = write_exports(tmp_path / "exports")

    placed, ran = follow("bring-your-own-logs", own, HOME=str(tmp_path))

    assert placed.returncode == 0, placed.stdout
    assert f"{rows:,} events, {sessions:,} sessions" in unwrap(ran.stdout)
    assert "deploy: " in ran.stdout and "Traceback" not in ran.stdout
    run = json.loads((own / "data/runs/latest.json").read_text())["run"]
    candidates = json.loads((own / "data/runs" / run / "metrics.json").read_text())[
        "candidates"
    ].values()
    assert 0.65 <= max(one["holdout"]["roc_auc"]["value"] for one in candidates) < 0.9


def test_a_column_is_hashed_as_the_guide_says(template):
    macros = (template / "src/jollyboat/dbt/macros/canonical_events.sql").read_text(
        encoding="utf-8"
    )
    guide = (template / TEMPLATE / "docs/bring-your-own-logs.md").read_text(encoding="utf-8")
    macro = re.search(r"{% macro hash_text.*?endmacro %}", macros, re.DOTALL)[0]
    (result,) = re.findall(r"{{ jollyboat\.hash_text\(.*?\) }}", guide)

    sql = jinja2.Template(macro + result.replace("jollyboat.", "")).render()

    with duckdb.connect() as connection:
        connection.execute("set variable salt = 'salt'")
        query = f'select {sql} from (select \'{{"name": "Ann"}}\'::json as record)'
        assert connection.sql(query).fetchall() == [(hash_text("Ann", "salt"),)]


def test_what_the_guides_add_passes_the_projects_lint(project, tmp_path):
    own = copy_project(project, tmp_path / "own")
    guides = [*(own / "docs").glob("*.md"), *(demo.HERE / "docs/how-to").glob("*.md")]
    # change-the-outcome edits the setting that bring-your-own-logs edits, and adds no code.
    added = [guide for guide in guides if guide.stem != "change-the-outcome"]
    steps = [step for guide in added for step in read_guide(guide)]
    for step in steps:
        take(step, own)
        if "jollyboat eject" in step.text:  # the next step edits what it writes
            print(type_in(own, step.text).stdout)

    python, sql = (
        " ".join({step.file for step in steps if step.file.endswith(kind)})
        for kind in (".py", ".sql")
    )
    checks = [f"ruff check {python}", f"ruff format --check {python}", f"sqlfluff lint -q {sql}"]
    result = type_in(own, "\n".join(f".venv/bin/python -m {check}" for check in checks))

    assert result.returncode == 0, result.stdout


def copy_with_data(shop: Path, into: Path) -> Path:
    copy = copy_project(shop, into)
    shutil.copytree(shop / "data", copy / "data")
    return copy


def write_exports(folder: Path) -> tuple[int, int]:
    """A CSV a day, whose header changes twice; who is shown the offer signs up more. How many rows and sessions."""
    folder.mkdir()
    random = np.random.default_rng(7)
    rows, sessions = 0, 0
    for number in range(12):
        day = datetime(2026, 3, 1) + timedelta(days=number)
        events = [
            event
            for visitor in range(160)
            for event in draw_visit(random, day, f"v{number}-{visitor}")
        ]
        header = HEADERS[number // 4]
        with (folder / f"{day:%Y-%m-%d}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, header, delimiter=";", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(events)
        rows, sessions = rows + len(events), sessions + 160
    return rows, sessions


def draw_visit(random: np.random.Generator, day: datetime, visitor: str) -> Iterator[dict]:
    """A visit of some screens; each offer among its first three makes a sign-up likelier."""
    actions = ["open", *random.choice(["open", "show_offer", "help"], size=random.integers(3, 7))]
    chance = 0.05 + 0.25 * actions[:3].count("show_offer")
    moment = day + timedelta(seconds=int(random.integers(0, 80_000)))
    for action in [*actions, *(["sign_up"] if random.random() < chance else [])]:
        price = "9,90" if action == "show_offer" else ""
        screen = {"open": "home", "show_offer": "offer"}.get(action, "account")
        yield {
            "when": moment,
            "visitor": visitor,
            "action": action,
            "screen": screen,
            "view": screen,
            "price": price,
            "plan": "free",
        }
        moment += timedelta(seconds=int(random.integers(2, 120)))
