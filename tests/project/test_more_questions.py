"""More questions on the same logs: from `jollyboat add question` to a champion that answers, and what shuts it."""

import csv
import gzip
import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest
from runs import copy_project, refusal, run, type_in

from demo import unwrap

pytestmark = pytest.mark.faults
DAYS, SESSIONS_PER_DAY = 70, 300
FIRST_DAY = date(2026, 1, 1)
HEADINGS = ("purchase_intent:", "churn:", "refunded:")
REFUND = "event_type = 'refund'"
SCRIPT = Path(__file__).parents[1] / "in_project" / "question.py"
# Points that see the future: only users who will buy again.
SEES_THE_FUTURE = """
    semi join (
        select tenant_id, user_id as entity_id, max(occurred_at) as last_at from events group by all
    ) as ends
        on active_days.tenant_id = ends.tenant_id
        and active_days.entity_id = ends.entity_id
        and ends.last_at > moments.asked_on + 3
"""


@pytest.fixture(scope="module")
def shop(project: Path, tmp_path_factory) -> Path:
    """A project with two more questions, about users and about orders, each with a champion."""
    copy = copy_project(project, tmp_path_factory.mktemp("questions") / "shop")
    simulated = type_in(
        copy,
        f".venv/bin/jollyboat simulate --days {DAYS} --sessions-per-day {SESSIONS_PER_DAY}; "
        ".venv/bin/jollyboat add question churn --horizon 7 --history-days 14; "
        ".venv/bin/jollyboat add question refunded --entity order_id --horizon 7 "
        f'--points "event_type = \'purchase\'" --outcome "{REFUND}" --history session_id',
    )
    assert simulated.returncode == 0, simulated.stdout
    write_refunds(copy)
    for verb in ("data", "train", "deploy", "score", "monitor AS_OF=2026-03-12"):
        answer = type_in(copy, f"make {verb}")
        (copy / f"{verb[:5].strip()}.txt").write_text(answer.stdout)
    return copy


def write_refunds(shop: Path) -> None:
    """Refunds as events of the browser, of dear orders more often than of cheap ones."""
    for orders in sorted(shop.glob("data/raw/orders/dt=*/orders.csv")):
        day = date.fromisoformat(orders.parent.name.removeprefix("dt="))
        refunded_on = day + timedelta(days=3)
        if refunded_on >= FIRST_DAY + timedelta(days=DAYS):
            continue
        with orders.open() as file:
            rows = list(csv.DictReader(file))
        lines = [
            {
                "event": {
                    "id": f"r{row['order_no']}",
                    "type": "refund",
                    "ts": f"{refunded_on}T10:00:00Z",
                },
                "received": f"{refunded_on}T10:00:01Z",
                "shop": row["shop_code"],
                "visitor": {
                    "anonymous_id": row["visitor_cookie"] or None,
                    "user_id": row["customer_no"] or None,
                },
                "context": {"page": {"name": "refund"}, "device": {"type": "desktop"}},
                "order": {"id": row["order_no"]},
            }
            for row in rows
            if int(row["order_no"][1:5], 16) % 100 < (70 if float(row["total"]) > 60 else 5)
        ]
        target = shop / f"data/raw/web/dt={refunded_on}/refunds.jsonl.gz"
        target.write_bytes(
            gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), mtime=0)
        )


def printed(shop: Path, verb: str) -> str:
    return unwrap((shop / f"{verb[:5]}.txt").read_text())


def test_each_verb_works_on_all_questions_and_says_which(shop):
    for verb in ("train", "deploy", "score", "monitor"):
        text = (shop / f"{verb[:5]}.txt").read_text()
        assert list(HEADINGS) == [line for line in text.splitlines() if line in HEADINGS], text


@pytest.mark.parametrize("question", ["churn", "refunded"])
def test_a_question_has_a_champion_behind_the_gate_that_answers(shop, question):
    deployed = printed(shop, "deploy").partition(f"{question}:")[2]

    assert "is now the champion of shared" in deployed.partition("page:")[0], deployed
    answer = type_in(shop, f".venv/bin/jollyboat ask --question {question}")
    assert answer.returncode == 0 and f"POST /predict/{question}" in answer.stdout
    listed = type_in(
        shop, f".venv/bin/jollyboat models --question {question}; .venv/bin/jollyboat status"
    )
    assert "CHAMPION since" in listed.stdout and f"{question}, shared:" in unwrap(listed.stdout)


@pytest.mark.parametrize("question", ["churn", "refunded"])
def test_a_question_is_the_same_online_and_its_features_see_nothing_after_the_point(shop, question):
    result = run(shop, shop / "data", str(SCRIPT), question)

    assert result.returncode == 0, result.stdout
    report = json.loads(result.stdout.splitlines()[-1])
    assert {} == report["differing"] and 0 == report["future"]
    assert report["rows"] >= 150


def test_a_horizon_lies_between_the_parts_of_the_training_rows(shop):
    report = json.loads(run(shop, shop / "data", str(SCRIPT), "churn").stdout.splitlines()[-1])

    parts = duckdb.sql(
        "select $1::timestamp + interval 7 day <= $2::timestamp, $3::timestamp + interval 7 day <= $4::timestamp",
        params=[
            report["split"]["train"][1],
            *report["split"]["validation"],
            report["split"]["holdout"][0],
        ],
    ).fetchone()
    assert (True, True) == parts


def test_batch_scores_about_users_are_of_now_and_served_by_id(shop):
    scores = duckdb.sql(f"from '{shop}/data/questions/churn/scores/*/scores.parquet'")
    newest = scores.aggregate(
        "tenant_id, count(distinct point_at) as times, max(point_at) as at"
    ).fetchall()

    assert all(times == 1 for _, times, _ in newest)
    tenant, entity = scores.project("tenant_id, entity_id").limit(1).fetchone()
    served = type_in(
        shop,
        ".venv/bin/python - <<'PY'\n"
        "import json\n"
        "from jollyboat.serving.smoke_test import _call, running_server\n"
        "with running_server() as server, server.connect() as connection:\n"
        f"    print(json.dumps(_call(connection, '/scores/churn/{tenant}/{entity}')))\n"
        "    body = {'tenant_id': 'acme', 'events': [{'event_type': 'a', 'user_id': 'u1', 'occurred_at': '2026-01-01T10:00:00Z'}]}\n"
        "    for path in ('/predict/churn', '/predict/churm', '/predict'):\n"
        "        print(json.dumps(_call(connection, path, json.dumps(body))))\n"
        "PY",
    )
    score, now, unknown, first = map(json.loads, served.stdout.splitlines()[-4:])
    assert 200 == score[0] and {"probability", "point_at", "scored_at"} <= score[1].keys()
    assert (200, "no_events") == (now[0], now[1]["status"])
    assert 404 == unknown[0] and "no question 'churm'" in unknown[1]["detail"]
    assert (200, "too_early") == (first[0], first[1]["status"])


@pytest.mark.parametrize(
    "page", ["runs/*/report", "models/shared/*/card", "scores/*/report", "monitor/report"]
)
def test_the_pages_of_a_question_use_its_words(shop, page):
    (path,) = (shop / "data/questions/churn").glob(f"{page}.html")

    html = path.read_text()
    assert "churn: churn of a user" in html or "probability of churn for a user" in " ".join(
        html.split()
    )
    assert "users" in html and "1,000 sessions" not in html


def test_an_erasure_reaches_the_runs_scores_and_tables_of_every_question(shop, tmp_path):
    copy = copy_project(shop, tmp_path / "shop")
    shutil.copytree(shop / "data", copy / "data", ignore=shutil.ignore_patterns(".metaflow"))
    scores = duckdb.sql(f"from '{copy}/data/questions/churn/scores/*/scores.parquet'")
    (user,) = scores.project("entity_id").limit(1).fetchone()

    erased = type_in(copy, f"make data; .venv/bin/jollyboat erase --person {user} --linked erase")

    assert erased.returncode == 0, erased.stdout
    assert not list((copy / "data/questions/churn/scores").glob("*/*"))
    assert not list((copy / "data/questions/churn/runs").glob("*/holdout.parquet"))
    for table in copy.glob("data/tables/*/*/*.parquet"):
        rows = duckdb.sql(f"select t from read_parquet('{table}', hive_partitioning = false) as t")
        assert 0 == rows.filter(f"contains(cast(t as varchar), '{user}')").count("*").fetchone()[0]
    assert "questions/churn/shared/" in unwrap(erased.stdout)


def test_points_that_depend_on_later_events_shut_the_audit(shop, tmp_path):
    broken = copy_project(shop, tmp_path / "shop")
    (broken / "data/raw").parent.mkdir(exist_ok=True)
    (broken / "data/raw").symlink_to(shop / "data/raw")
    points = broken / "dbt/models/questions/churn/churn_points.sql"
    grouping = "    group by active_days.tenant_id, active_days.entity_id, moments.asked_on\n"
    assert points.read_text().count(grouping) == 1
    points.write_text(points.read_text().replace(grouping, SEES_THE_FUTURE + grouping))

    sentence = refusal(type_in(broken, "make data || exit 1"))

    assert "churn_points: which points there are depends on no later event" in sentence


def test_an_outcome_that_never_happens_and_a_null_entity_are_sentences(shop, tmp_path):
    broken = copy_project(shop, tmp_path / "shop")
    (broken / "data").mkdir(exist_ok=True)
    (broken / "data/raw").symlink_to(shop / "data/raw")
    definition = broken / "dbt/models/questions/refunded/refunded.yml"
    definition.write_text(definition.read_text().replace("'refund'", "'never'"))
    assert type_in(broken, "make data").returncode == 0

    sentence = refusal(type_in(broken, "make train QUESTION=refunded || exit 1"))

    assert "did not have the outcome" in sentence and "dbt/models/questions" in sentence
    points = broken / "dbt/models/questions/refunded/refunded_points.sql"
    points.write_text(
        points.read_text().replace("order_id as entity_id", "cast(null as varchar) as entity_id")
    )
    sentence = refusal(type_in(broken, "make data || exit 1"))
    assert "refunded_points: every point has a tenant, an entity and a time" in sentence


def test_a_guide_takes_a_sentence_to_a_gated_decision(project, tmp_path):
    from runs import read_guide, take

    from jollyboat.store import LIBRARY

    shop = copy_project(project, tmp_path / "shop")
    answers = []
    for step in read_guide(LIBRARY / "how_to" / "add-a-question.md"):
        take(step, shop)
        if step.kind == "sh":
            answers.append(type_in(shop, step.text))

    assert [0] * len(answers) == [answer.returncode for answer in answers], answers[-2].stdout
    assert "is now the champion of shared" in unwrap(answers[-2].stdout)
