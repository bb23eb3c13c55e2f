"""A ranking as a question of a project: its definition and files, its bundle, its answers, its gate."""

import json
import shutil
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import duckdb
import pytest
from fastapi.testclient import TestClient
from ranking_data import COVISITS, EVENTS, PAIRS, POPULAR, QUESTION, render, shop
from test_gate import GOOD, LIMITS, lead

from jollyboat.bundles.bundle import Bundle, Parts, assemble, open_bundle
from jollyboat.bundles.ranking_model import MOST_ITEMS, RankingModel, make_sample
from jollyboat.champions.champion import format_versions, promote
from jollyboat.gate.checks import CHECKS, RANKING_CHECKS
from jollyboat.gate.gate import decide
from jollyboat.ranking import rankers
from jollyboat.scaffold import PRESETS, add_question
from jollyboat.serving.app import app
from jollyboat.serving.champions import read_withdrawn
from jollyboat.store import PROJECT, Store, UserError, settings
from jollyboat.training.run import headline
from jollyboat.warehouse import questions

SETTINGS = (PROJECT / "project.toml").read_text()
DEFINITION = {"entity": "session_id", "item": "product_id", "item_event": "product_view"}
REFUSED = {
    "an unknown key": ({"window": 3}, "has no key window. Did you mean window_days?"),
    "no event": ({"item_event": None}, "item_event is null; it should be a valid string"),
    "a quote in the event": (
        {"item_event": "a' or true --"},
        "item_event is .*should match pattern",
    ),
    "another entity": ({"entity": "user_id"}, "entity is .user_id.; it should be 'session_id'"),
    "an unknown column": ({"item": "sku"}, "item is .sku.; it should be 'product_id'"),
    "an outcome": ({"outcome": "true"}, "has no key outcome"),
    "no days": ({"learning_days": 0}, "learning_days is 0; it should be greater"),
}
VIEWS = [
    *[(f"s{n}", f"2026-01-02 1{n}:00", "a") for n in range(4)],
    *[(f"s{n}", f"2026-01-02 1{n}:01", "b" if n else "c") for n in range(4)],
    ("s8", "2026-01-03 10:00", "a"),
    ("s8", "2026-01-03 10:05", "d"),
]
RANKING = replace(
    GOOD,
    is_ranking=True,
    measure="MRR@20",
    baseline="popularity",
    candidate="xgboost",
    negatives=None,
    segments=None,
    calibration_error=None,
    leaks=None,
    roc_auc=None,
)
REQUEST = {
    "tenant_id": "acme",
    "events": [
        {
            "event_type": "product_view",
            "product_id": "a",
            "occurred_at": "2026-01-05T10:00:00Z",
            "anonymous_id": "v",
        }
    ],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the parts of the template that a new question touches."""
    copy = tmp_path / "shop"
    shutil.copytree(PROJECT / "dbt", copy / "dbt", ignore=shutil.ignore_patterns("dbt_packages"))
    (copy / "project.toml").write_text(SETTINGS)
    return copy


@pytest.fixture
def store(tmp_path: Path, monkeypatch) -> Store:
    monkeypatch.setenv("STORE_ROOT", str(tmp_path))
    monkeypatch.delenv("SERVE_BUNDLE", raising=False)
    return Store(tmp_path).of(QUESTION)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    """The lookups of a tiny shop."""
    connection = shop(VIEWS)
    for table in (POPULAR, COVISITS):
        connection.sql(f"from {table}").to_parquet(str(tmp_path / f"{table}.parquet"))
    return {table: [tmp_path / f"{table}.parquet"] for table in (POPULAR, COVISITS)}


@pytest.fixture
def bundle(store: Store, files) -> Bundle:
    """A bundle of co-visits over these lookups, whose sample has two items."""
    connection = duckdb.connect()
    lookups = {
        table: {
            name: kind for name, kind, *_ in connection.sql(f"describe from '{path}'").fetchall()
        }
        for table, (path,) in files.items()
    }
    model = store.root / "saved"
    model.mkdir()
    rankers.Ranker("covisits").save(model)
    sql = render(PAIRS).replace(f'"{EVENTS}"', f'"warehouse"."main"."{EVENTS}"')
    question = {"name": QUESTION, **DEFINITION}
    rows = {
        POPULAR: [
            {"tenant_id": "acme", "key": key, "valid_from": "1970-01-01", "popularity_rank": rank}
            for rank, key in enumerate("abc", start=1)
        ]
    }
    sample = make_sample(model, sql, lookups, question, REQUEST, rows)
    parts = Parts(
        candidate="covisits",
        model=model,
        feature_sql=sql,
        schema={"features": []},
        lookups=lookups,
        sample=sample,
        card="<html></html>",
        threshold=None,
        run="run-1",
        snapshot="none",
        code="none",
        metrics={"mrr_20": {"value": 0.4, "low": 0.3, "high": 0.5}},
        question=question,
    )
    return assemble(parts, store)


def session(*products: str, tenant: str = "acme", at: str = "2026-01-05T10:0{}:00Z") -> tuple:
    events = [
        {"event_type": "product_view", "product_id": product, "occurred_at": at.format(number)}
        for number, product in enumerate(products)
    ]
    return tenant, "s", events


def items_of(model: RankingModel, *sessions: tuple) -> list[list[str]]:
    return [[each["item"] for each in made.items] for made in model.predict(sessions)]


@pytest.mark.parametrize(("part", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_ranking_that_cannot_be_is_refused_with_file_and_key(part, sentence):
    with pytest.raises(UserError, match=rf"a.yml: question:? {sentence}"):
        questions.check_definition(DEFINITION | part, "a.yml")


def test_both_kinds_of_definitions_are_read_and_a_month_of_logs_is_enough(project):
    store = Store(project / "data")
    add_question("churn", PRESETS["churn"], project, store)
    add_question(QUESTION, PRESETS[QUESTION], project, store)

    definitions = questions.read_definitions(project / "dbt")

    assert isinstance(definitions["churn"], questions.Definition)
    assert isinstance(definitions[QUESTION], questions.Ranking)
    assert 21 == questions.days_needed(definitions[QUESTION])
    questions.check_questions(settings.parse((project / "project.toml").read_text()), definitions)


def test_logs_that_are_too_short_for_a_ranking_are_named_with_learning_days():
    ranking = {QUESTION: questions.Ranking.model_validate(DEFINITION)}

    (sentence,) = questions.describe_short_logs(ranking, {date(2026, 1, 1), date(2026, 1, 5)})

    assert "span 5 days, and with learning_days of 14 it needs 21 or more" in sentence


def test_the_files_of_next_product_are_at_most_ten_and_three_hundred_lines(project):
    before = {path for path in project.rglob("*") if path.is_file()}

    first, *_ = add_question(QUESTION, PRESETS[QUESTION], project, Store(project / "data"))

    new = {path for path in project.rglob("*") if path.is_file()} - before
    lines = sum(len(path.read_text().splitlines()) for path in new)
    text = (project / "project.toml").read_text()
    assert len(new) <= 10 and lines + len(text.splitlines()) - len(SETTINGS.splitlines()) <= 300
    assert first.endswith("next_product.yml")
    own = settings.parse(text).of(QUESTION)
    assert list(rankers.CANDIDATES) == own.train.candidates
    with pytest.raises(UserError, match="has a question next_product"):
        add_question(QUESTION, PRESETS[QUESTION], project, Store(project / "data"))


def test_pairs_that_read_what_came_later_are_refused(project):
    add_question(QUESTION, PRESETS[QUESTION], project, Store(project / "data"))
    questions.check_features(QUESTION, project / "dbt")
    model = project / f"dbt/models/questions/{QUESTION}/{PAIRS}.sql"

    model.write_text(model.read_text().replace(f"ref('{EVENTS}')", "ref('events')"))

    with pytest.raises(UserError, match=rf"{PAIRS}\.sql reads events, which has what came after"):
        questions.check_features(QUESTION, project / "dbt")


def test_a_candidate_or_a_parameter_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="no candidate 'lightgbm'; it has popularity, covisits"):
        rankers.fit("lightgbm", None, None, {})
    with pytest.raises(UserError, match="no parameter max_depht"):
        rankers.fit("xgboost", None, None, {"max_depht": 3, "increasing": ["a"], "seed": 7})


def test_a_ranking_is_named_by_its_mrr_and_another_question_by_average_precision():
    assert ("MRR@20", 1) == headline({"mrr_20": 1, "coverage": 0.5})
    assert ("average precision", 2) == headline({"average_precision": 2})


def test_items_follow_what_was_viewed_and_popular_ones_fill_up(bundle, files):
    model = RankingModel(bundle, files, days=1)

    made = model.predict([session("c", "a"), session("zzz")])

    assert ["b", "c", "d"] == [each["item"] for each in made[0].items]
    assert "often viewed after a" == made[0].items[0]["reason"]
    assert {"popular in the last days"} == {each["reason"] for each in made[1].items}
    assert ["recommended"] * 2 == [each.status for each in made]
    assert (2, "2026-01-05 10:01:00") == (made[0].event_count, made[0].point_at)


def test_sessions_that_are_answered_together_get_what_each_gets_alone(bundle, files):
    model = RankingModel(bundle, files, days=1)
    sessions = [session("a"), session("b", "c"), session("a", tenant="other"), session("d")]

    assert items_of(model, *sessions) == [items_of(model, each)[0] for each in sessions]


def test_an_old_event_gets_the_oldest_state_of_a_server_and_nothing_of_its_future_offline(
    bundle, files
):
    long_ago = session("a", at="2025-06-01T10:0{}:00Z")

    served, offline = (RankingModel(bundle, files, days=days) for days in (1, None))

    assert [["b", "c", "d"]] == items_of(served, long_ago)
    assert [[]] == items_of(offline, long_ago)


def test_a_tenant_without_items_and_a_session_without_events_have_a_status_that_says_so(
    bundle, files
):
    model = RankingModel(bundle, files, days=1)
    early = (*session("a"), datetime(2020, 1, 1))

    made = model.predict([session("a", tenant="nobody"), early])

    assert [("unknown_tenant", []), ("no_events", [])] == [
        (each.status, each.items) for each in made
    ]


def test_a_bundle_that_ranks_its_sample_otherwise_is_refused(bundle):
    RankingModel(bundle).close()
    items = bundle.sample["answer"]["items"]
    assert ["b", "c"] == [each["item"] for each in items]

    opened = open_bundle(bundle.folder)
    opened.sample["answer"]["items"] = items[::-1]

    with pytest.raises(UserError, match="ranks the items of its own sample otherwise"):
        RankingModel(opened)


def test_withdrawn_items_are_read_line_by_line(tmp_path):
    path = tmp_path / "items.txt"

    assert frozenset() == read_withdrawn(path)
    path.write_text("a\r\n\n  it's b \n")
    assert {"a", "it's b"} == read_withdrawn(path)


def test_the_server_answers_with_items_and_leaves_withdrawn_ones_out(
    store, bundle, files, monkeypatch
):
    monkeypatch.setenv("SERVE_BUNDLE", str(bundle.folder))
    monkeypatch.setattr(
        "jollyboat.serving.champions.snapshot.open_latest", lambda store: Newest(files)
    )
    store.latest_snapshot.parent.mkdir()
    store.latest_snapshot.write_text("{}")
    with TestClient(app) as client:
        before = client.post("/predict/next_product", json=REQUEST | {"count": 2}).json()
        store.withdrawn.parent.mkdir()
        store.withdrawn.write_text("b\n")
        client.portal.call(app.state.questions[QUESTION].champions.refresh)
        after = client.post("/predict/next_product", json=REQUEST | {"count": 2}).json()
        store.withdrawn.write_text("b\nc\nd\n")
        client.portal.call(app.state.questions[QUESTION].champions.refresh)
        empty = client.post("/predict/next_product", json=REQUEST).json()
        described, page = client.get("/openapi.json").json(), client.get("/docs").text

    assert ["b", "c"] == [each["item"] for each in before["items"]]
    assert ["c", "d"] == [each["item"] for each in after["items"]]
    assert ("no_items", []) == (empty["status"], empty["items"])
    names = {"request_id", "tenant_id", "entity_id", "status", "items", "champion"}
    assert names | {"model_version", "variant"} == before.keys()
    operation = described["paths"]["/predict/next_product"]["post"]
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert "items" in example and "POST /predict/next_product" in page


class Newest:
    """A snapshot with these files."""

    ends_at = None

    def __init__(self, files):
        self.files = files.__getitem__


@pytest.mark.parametrize("count", [0, MOST_ITEMS + 1, "2", 1.5])
def test_a_count_out_of_range_is_unprocessable(bundle, monkeypatch, count):
    monkeypatch.setenv("SERVE_BUNDLE", str(bundle.folder))
    with TestClient(app) as client:
        response = client.post("/predict/next_product", json=REQUEST | {"count": count})

    assert 422 == response.status_code and ["body", "count"] == response.json()["detail"][0]["loc"]


def test_the_versions_of_a_ranking_are_listed_with_mrr(store, bundle):
    promote(store, "shared", bundle.version, run="run-1", by="test", why="a test")

    assert "MRR@20 (95 %)" in format_versions(store)
    assert "0.400 (0.300 to 0.500)" in format_versions(store)


def test_a_good_ranking_passes_and_only_checks_that_apply_are_run():
    decision = decide(RANKING, LIMITS)

    names = [check.name for check in decision.checks]
    assert (
        decision.passed
        and [check.name for check in RANKING_CHECKS if check.name != "meets_targets"] == names
    )
    assert len(CHECKS) > len(names) and "calibration" not in names


@pytest.mark.parametrize(
    ("bad", "name", "words"),
    [
        ({"positives": 2}, "enough_outcomes", "2 points with a next item"),
        ({"positives": None}, "enough_outcomes", "no figure for enough outcomes"),
        ({"against_baseline": lead(0.02, -0.001)}, "beats_the_baseline", "MRR@20 over popularity"),
        ({"candidate": "popularity"}, "beats_the_baseline", "the baseline itself"),
        ({"against_champion": lead(0, -0.02)}, "not_worse_than_champion", "MRR@20 over champion"),
        ({"differing": {"order": 3}}, "serves_as_trained", "3 values of order differ"),
    ],
)
def test_a_bad_ranking_shuts_the_gate(bad, name, words):
    checks = {check.name: check for check in decide(replace(RANKING, **bad), LIMITS).checks}

    assert [name] == [each for each, check in checks.items() if not check.passed]
    assert words in checks[name].sentence


def test_samples_are_plain_json(bundle):
    assert bundle.sample == json.loads(json.dumps(bundle.sample))
