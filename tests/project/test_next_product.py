"""The question next_product: from `jollyboat add question` to items that a server recommends."""

import json
from pathlib import Path

import duckdb
import pytest
from runs import copy_project, refusal, run, type_in

from demo import unwrap

pytestmark = pytest.mark.faults
QUESTION = "next_product"
SCRIPT = Path(__file__).parents[1] / "in_project" / "ranking.py"
VERBS = ("data", "train", "deploy", "score", "monitor")


@pytest.fixture(scope="module")
def shop(project: Path, tmp_path_factory) -> Path:
    """A project with the question next_product, which has a champion; its verbs run on both questions."""
    copy = copy_project(project, tmp_path_factory.mktemp("ranking") / "shop")
    simulated = type_in(
        copy,
        ".venv/bin/jollyboat simulate --days 24 --sessions-per-day 200; "
        f".venv/bin/jollyboat add question {QUESTION}",
    )
    assert simulated.returncode == 0, simulated.stdout
    for verb in VERBS:
        question = "" if verb == "data" else f" QUESTION={QUESTION}"
        answer = type_in(copy, f"make {verb}{question}")
        assert answer.returncode == 0, answer.stdout
        (copy / f"{verb}.txt").write_text(unwrap(answer.stdout))
    return copy


@pytest.fixture(scope="module")
def report(shop: Path) -> dict:
    """What a server of this project answers, and what differs online: see in_project/ranking.py."""
    result = run(shop, shop / "data", str(SCRIPT))
    assert result.returncode == 0, result.stdout
    return json.loads(result.stdout.splitlines()[-1])


def test_each_verb_says_what_it_has_done(shop):
    text = {verb: (shop / f"{verb}.txt").read_text() for verb in VERBS}

    assert "of them with a next item" in text["data"]
    for word in ("MRR@20 (95 %)", "popularity", "covisits", "xgboost chosen on validation"):
        assert word in text["train"], text["train"]
    assert (
        "is now the champion of shared" in text["deploy"] and "over popularity's" in text["deploy"]
    )
    assert "open session" in text["score"] and "up to 20 items" in text["score"]
    assert "No quality is significantly below the holdout's." in text["monitor"]


def test_the_champion_is_significantly_better_than_popular_items(shop):
    (metrics,) = (shop / f"data/questions/{QUESTION}/runs").glob("*/metrics.json")
    metrics = json.loads(metrics.read_text())

    assert metrics["candidates"][metrics["chosen"]]["against_baseline"]["low"] > 0.1
    assert 0.8 < metrics["ranking"]["reach"] <= 1


def test_the_server_recommends_what_the_lookups_have(report):
    assert "recommended" == report["two"]["status"] and 20 == len(report["two"]["items"])
    assert {each["item"] for each in report["two"]["items"]} <= set(report["catalogue"])
    assert 100 == len(report["hundred"]["items"]) and 3 == len(report["three"]["items"])
    assert len({each["item"] for each in report["hundred"]["items"]}) == 100
    assert {"popular in the last days"} == {each["reason"] for each in report["no_view"]["items"]}
    assert ("unknown_tenant", []) == (report["nobody"]["status"], report["nobody"]["items"])


def test_a_withdrawn_item_is_never_returned(report):
    best = report["hundred"]["items"][0]["item"]

    assert best == report["withdrawn"]
    assert best not in {each["item"] for each in report["without"]["items"]}
    assert report["without"]["items"] == report["hundred"]["items"][1:]


def test_answers_are_logged_with_their_items(report):
    line = report["line"]

    assert QUESTION == line["question"] and line["items"][:1] == [report["withdrawn"]]
    assert "probability" not in line


def test_pairs_are_the_same_online_and_offline_and_in_the_same_order(report):
    assert {} == report["differing"]
    assert {"order", "event_count"} <= report["differing_if_cut"].keys()


def test_scores_are_a_list_of_items_for_each_open_session(shop, report):
    scores = duckdb.sql(f"from '{shop}/data/questions/{QUESTION}/scores/*/scores.parquet'")
    places = scores.aggregate("entity_id, min(place), max(place), count(*)").fetchall()

    assert places and all((1, count) == (low, high) for _, low, high, count in places)
    assert 200 == report["score"][0] and 20 == len(report["score"][1]["items"])


@pytest.mark.parametrize(
    "page",
    ["runs/*/report", "models/shared/*/card", "models/shared/*-gate", "scores/*/report"],
)
def test_the_pages_of_a_ranking_are_there_in_its_words(shop, page):
    (path,) = (shop / f"data/questions/{QUESTION}").glob(f"{page}.html")

    assert "next_product: next product of a session" in path.read_text()


def test_what_does_not_apply_to_a_ranking_says_so(shop):
    (run_id,) = [
        path.parent.name for path in shop.glob(f"data/questions/{QUESTION}/runs/*/run.json")
    ]
    for command in (
        f"compare {run_id} {run_id} --question {QUESTION}",
        f"experiment start --question {QUESTION}",
    ):
        assert "ranking" in refusal(type_in(shop, f".venv/bin/jollyboat {command} || exit 1"))
    listed = type_in(shop, f".venv/bin/jollyboat models --question {QUESTION}")
    assert "MRR@20" in listed.stdout and "CHAMPION since" in listed.stdout


def test_a_ranking_that_cannot_be_is_a_sentence(shop, tmp_path):
    broken = copy_project(shop, tmp_path / "shop")
    definition = broken / f"dbt/models/questions/{QUESTION}/{QUESTION}.yml"
    definition.write_text(definition.read_text().replace("window_days", "window_dys"))

    sentence = refusal(type_in(broken, "make data || exit 1"))

    assert (
        "next_product_points: question has no key window_dys. Did you mean window_days" in sentence
    )


def test_a_candidate_that_does_not_exist_is_a_sentence(shop, tmp_path):
    broken = copy_project(shop, tmp_path / "shop")
    (broken / "data").symlink_to(shop / "data")
    settings = broken / "project.toml"
    settings.write_text(settings.read_text().replace('"covisits"', '"covisit"'))

    sentence = refusal(type_in(broken, f"make train QUESTION={QUESTION} || exit 1"))

    assert "A ranking has no candidate 'covisit'" in sentence
