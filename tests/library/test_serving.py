"""The server answers as the contract says, whoever else is asking, whatever is sent, whatever lies on the disk."""

import asyncio
import errno
import html
import json
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from types import SimpleNamespace

import duckdb
import httpx
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from serving_data import (
    BROWSED,
    CART_EFFECT,
    CARTED,
    CONTRACT,
    FEATURE_SQL,
    LOOKUPS,
    POPULAR,
    event,
    make_bundle,
    publish_lookup,
    trial_of,
    write_lookup,
)
from whole_path import JOLLYBOAT

from jollyboat.bundles import features
from jollyboat.bundles.features import EVENT_COLUMNS, FeatureQuery, rows_of_request
from jollyboat.bundles.model import LoadedModel
from jollyboat.champions import policy
from jollyboat.champions.champion import promote, rollback
from jollyboat.landing import prediction_log
from jollyboat.landing.prediction_log import PredictionLog, land_leftovers
from jollyboat.serving import app as app_module
from jollyboat.serving import batch_scores, request_body
from jollyboat.serving.app import MOST_BYTES, app
from jollyboat.serving.champions import CHALLENGER, Champions
from jollyboat.serving.schema import Event, PredictRequest
from jollyboat.serving.smoke_test import run_smoke_test
from jollyboat.store import (
    PROJECT,
    Store,
    UserError,
    hash_addresses,
    hash_personal,
    hash_text,
    write_json,
)
from jollyboat.training import explanation

JSON = {"Content-Type": "application/json"}
KEY = {"tenant_id": "acme", "entity_id": "s1"}
WHO = {"by": "test", "why": "a test"}
CARTED_EVENTS = [event(1), event(2, event_type="cart_add")]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("STORE_ROOT", str(tmp_path))
    monkeypatch.delenv("SERVE_BUNDLE", raising=False)
    return Store(tmp_path)


@pytest.fixture
def bundle(store):
    bundle = make_bundle(store)
    promote(store, "shared", bundle.version, run="run-1", **WHO)
    return bundle


@pytest.fixture
def client(bundle):
    with TestClient(app) as client:
        yield client


@pytest.fixture
def popular_products(tmp_path):
    """The files of a lookup in which acme's p1 is popular since the 5th of January, and was not before."""
    days = pd.to_datetime(["2026-01-01", "2026-01-05", None]).date
    rows = {
        "tenant_id": "acme",
        "key": "p1",
        "valid_from": days[:2],
        "valid_to": days[1:],
        "popularity": [5, 500],
    }
    return {"lookup_product": [write_lookup(Store(tmp_path), pd.DataFrame(rows))]}


def ask(client, events, tenant_id="acme", **more):
    return client.post("/predict", json={"tenant_id": tenant_id, "events": events, **more})


class Query(FeatureQuery):
    def compute(self, requests):
        return self.run(
            [rows_of_request(place, None, events) for place, events in enumerate(requests)]
        ).infer_objects()


def query_over(sql=FEATURE_SQL, **more):
    return Query(sql, LOOKUPS, **more)


ONE_ROW = """
select tenant_id, entity_id, point_at, string_agg(event_id, ' ' order by event_number) as ids, min(price) as price,
    max(payload) as payload, bool_and(json_valid(payload)) as is_json, min(occurred_at) as first_at
from "warehouse"."main"."events_at_point" group by all
"""


def test_an_answer_has_the_fields_of_the_contract(client, bundle):
    response = ask(client, CARTED_EVENTS)
    answer = response.json()

    assert response.status_code == 200
    assert set(answer) == CONTRACT
    assert (answer["probability"], answer["decision"], answer["threshold"]) == (CARTED, True, 0.3)
    assert (answer["champion"], answer["variant"], answer["model_version"]) == (
        "shared",
        "champion",
        bundle.version,
    )
    assert ask(client, [event(1)]).json()["probability"] == BROWSED


def test_a_session_is_named_as_sent_or_after_its_device(client):
    by_event = ask(client, [event(1, session_id="s1")]).json()["entity_id"]
    by_request = ask(client, [event(1)], session_id="s2").json()["entity_id"]
    by_device = {ask(client, [event(1)]).json()["entity_id"] for _ in range(2)}
    other_tenant = ask(client, [event(1)], tenant_id="globex").json()["entity_id"]
    by_float = ask(client, [event(1)], session_id="17.0").json()["entity_id"]
    by_nothing = ask(client, [event(1)], session_id="undefined").json()["entity_id"]

    assert (by_float, {by_nothing}) == ("17", by_device)
    assert (by_event, by_request) == ("s1", "s2")
    assert len(by_device) == 1 and other_tenant not in by_device
    assert "a1" not in by_device


def test_health_ready_and_model_say_which_champion_serves(client, bundle):
    assert client.get("/health").json() == {"status": "alive", "prediction_log": "written"}
    assert client.get("/ready").json() == {
        "status": "ready",
        "champions": {"shared": bundle.version},
        "refused": [],
    }
    response = client.get("/model").json()
    assert response["manifest"]["version"] == bundle.version
    assert (response["standing"]["version"], response["standing"]["forced"]) == (
        bundle.version,
        None,
    )
    assert "<title>Card</title>" in client.get(response["card"]).text


def test_the_api_is_described_offline_with_a_real_request_and_its_answer(client, bundle):
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    request = operation["requestBody"]["content"]["application/json"]["example"]
    answer = operation["responses"]["200"]["content"]["application/json"]["example"]
    page = client.get("/docs").text

    assert (
        client.post("/predict", json=request).json() | {"request_id": answer["request_id"]}
        == answer
    )
    assert bundle.version in page and "at most 1,000" in page and "src=" not in page


def test_the_apis_page_has_a_meaning_for_each_field_and_snippets_that_can_be_run(
    client, monkeypatch
):
    monkeypatch.setenv("SERVE_TOKEN", "")
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    page = html.unescape(client.get("/docs").text)

    fields = body["schema"]["properties"]
    fields |= fields["events"]["items"]["properties"]
    assert all(field["description"] for field in fields.values())
    python = page.partition("<code>import json")[2].partition("</code>")[0]
    text = python.partition('json.loads("""')[2].partition('""")')[0]
    assert json.loads(text) == body["example"]
    compile("import json" + python, "snippet", "exec")
    assert "curl http://testserver/predict \\\n  -H 'Content-Type: application/json'" in page
    assert "connect-src 'self'" in page and '<form data-path="/predict">' in page


def test_many_sessions_are_answered_in_one_request_and_the_bad_one_is_named(client):
    sessions = [{"tenant_id": "acme", "events": events} for events in (CARTED_EVENTS, [event(1)])]

    answers = client.post("/predict/batch", json={"sessions": sessions}).json()["answers"]
    refused = client.post(
        "/predict/batch", json={"sessions": [*sessions, {"tenant_id": "acme", "events": [{}]}]}
    )

    assert [answer["probability"] for answer in answers] == [CARTED, BROWSED]
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "sessions", 2, "events", 0, "event_type"]


def test_an_answer_explains_itself_when_asked_and_only_then(client):
    by_query = client.post(
        "/predict?explain=true", json={"tenant_id": "acme", "events": CARTED_EVENTS}
    ).json()
    by_body = ask(client, CARTED_EVENTS, explain=True).json()

    assert by_query["reasons"] == by_body["reasons"]
    assert "reasons" not in ask(client, CARTED_EVENTS).json()
    assert by_query["reasons"][0] == {
        "feature": "cart_add_count",
        "value": 1,
        "effect": CART_EFFECT,
        "text": "cart add count is 1, which makes the odds 2.3 times as high",
    }


def test_a_reason_that_is_estimated_says_so(store, monkeypatch):
    monkeypatch.setattr(explanation, "METHODS", {})

    (prediction,) = LoadedModel(make_bundle(store)).predict([("acme", "s1", CARTED_EVENTS)], [True])

    assert prediction.reasons[0]["feature"] == "cart_add_count"
    assert prediction.reasons[0]["text"].endswith(" times as high (estimated by occlusion)")


def test_a_bundle_serves_without_the_file_of_the_candidates(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "jollyboat.training.candidates", None)

    assert LoadedModel(bundle).predict([("acme", "s1", CARTED_EVENTS)])[0].probability == CARTED


def test_a_token_is_required_where_one_is_set(client, monkeypatch):
    monkeypatch.setenv("SERVE_TOKEN", "sécret")
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": b"\xff"},
    ]
    body = {"tenant_id": "acme", "events": [event(1)]}

    statuses = [
        client.post("/predict", json=body, headers=headers).status_code for headers in wrong
    ]
    right = client.post("/predict", json=body, headers={"Authorization": "Bearer sécret".encode()})

    assert statuses == [401] * 4
    assert right.status_code == 200
    open_paths = [client.get(path).status_code for path in ("/health", "/metrics", "/ready")]
    assert open_paths == [200] * 3
    assert client.get("/ready").json() == {"status": "ready"}


def test_a_body_that_another_sites_page_can_send_unasked_is_refused(client):
    body = json.dumps({"tenant_id": "acme", "events": [event(1)]})
    foreign = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
    own = ["application/json", "Application/JSON; charset=utf-8"]

    def status(path, **headers):
        return client.post(path, content=body, headers=headers).status_code

    for path in ("/predict", "/predict/batch"):
        assert [status(path, **{"Content-Type": kind}) for kind in foreign] == [415] * 3
        assert status(path) == 415
    assert [status("/predict", **{"Content-Type": kind}) for kind in own] == [200] * 2
    refused = client.post("/predict", content=body, headers={"Content-Type": "text/plain"})
    assert "Content-Type: application/json" in refused.json()["detail"]


def test_a_request_for_another_host_is_refused_with_the_way_to_allow_it(client, monkeypatch):
    def status(host, path="/predict"):
        body = {"tenant_id": "acme", "events": [event(1)]}
        posted = client.post(path, json=body, headers={"host": host})
        return posted.status_code

    monkeypatch.setenv("ALLOWED_HOSTS", "shop.example.com, *.corp.example a.example:81")
    loopback = ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:80"]
    named = ["shop.example.com:8000", "a.corp.example", "a.example:81"]
    wrong = ["evil.example", "xshop.example.com", "corp.example", "localhost.evil.example", "", "["]
    paths = ("/", "/docs", "/review", "/model", "/scores/x/y/z", "/nothing")

    assert [status(host) for host in [*loopback, *named]] == [200] * 7
    assert [status(host) for host in wrong] == [400] * 6
    evil = {"host": "evil.example"}
    assert [client.get(path, headers=evil).status_code for path in paths] == [400] * 6
    probes = ("/health", "/ready", "/metrics")  # a load balancer asks by address
    assert [client.get(path, headers=evil).status_code for path in probes] == [200] * 3
    detail = client.get("/", headers=evil).json()["detail"]
    assert "'evil.example'" in detail and "ALLOWED_HOSTS=" in detail
    monkeypatch.setenv("ALLOWED_HOSTS", "*")
    assert status("evil.example") == 200


def test_no_response_is_shown_in_a_foreign_frame_or_read_as_another_type(client):
    responses = [
        *(client.get(path) for path in ("/", "/docs", "/model/card", "/nothing", "/health")),
        client.post("/predict", json={}),
        client.get("/", headers={"host": "evil.example"}),
    ]

    for response in responses:
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "same-origin"


def test_metrics_hold_requests_scores_and_the_log(client):
    ask(client, CARTED_EVENTS)
    ask(client, [])

    text = client.get("/metrics").text

    for line in (
        'request_seconds_count{path="/predict",status="200"}',
        'request_seconds_count{path="/predict",status="422"}',
        'prediction_score_count{champion="shared",variant="champion"}',
        "prediction_log_lost_total 0.0",
    ):
        assert line in text


def test_a_challenger_takes_its_share_of_the_visitors_each_always_the_same(store, bundle):
    other = make_bundle(store, carted=0.6)
    experiment = trial_of(other, bundle)
    visitors = [f"visitor-{number}" for number in range(150)]

    async def answer_to(client, visitor):
        response = (
            await post(client, [{**each, "anonymous_id": visitor} for each in CARTED_EVENTS])
        ).json()
        return response["variant"], response["probability"]

    async def story():
        async with serving() as client:
            rounds = []
            for share in (0.3, 0.3, 0.6, 40):
                write_json(store.experiment, experiment | {"share": share})
                await app.state.champions.refresh()
                rounds.append([await answer_to(client, visitor) for visitor in visitors])
            refused = (await client.get("/ready")).json()["refused"]
            store.experiment.unlink()
            await app.state.champions.refresh()
            rounds.append([await answer_to(client, visitor) for visitor in visitors])
            return rounds, refused

    (first, again, wider, wrong, none), refused = asyncio.run(story())

    assert set(first) == {("champion", CARTED), ("challenger", 0.6)}
    assert first == again
    assert 30 < first.count(("challenger", 0.6)) < 60 < wider.count(("challenger", 0.6)) < 120
    assert all(
        after[0] == "challenger"
        for before, after in zip(first, wider, strict=True)
        if before[0] == "challenger"
    )
    assert wrong == wider
    assert "above 0 and below 1, not 40. " in refused[0]
    assert "`jollyboat experiment stop`" in refused[0]
    assert set(none) == {("champion", CARTED)}


def test_a_challenger_is_loaded_again_when_its_bundle_is_repaired_and_until_then_says_the_way_out(
    store, bundle
):
    other = make_bundle(store, carted=0.6)
    write_json(store.experiment, trial_of(other, bundle) | {"run": "run-2"})
    features = other.folder / "features.sql"
    whole = features.read_bytes()
    features.write_text("select 1")

    async def story():
        champions = Champions(store)
        await champions.refresh()
        broken, refused = champions.versions(), champions.why_not()
        features.write_bytes(whole)
        await champions.refresh()
        return broken, refused, champions.versions(), champions.refused

    broken, refused, repaired, still = asyncio.run(story())

    assert broken == {"shared": bundle.version}
    assert "was changed" in refused
    assert "`jollyboat experiment stop`, then `jollyboat experiment start --run run-2`" in refused
    assert "make deploy" not in refused
    assert (repaired, still) == ({"shared": bundle.version, "challenger": other.version}, {})


# The prediction log


def logged(store):
    files = sorted(store.raw.glob("predictions/dt=*/*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def test_every_answer_is_a_line_that_lands_when_the_server_stops(store, bundle):
    mine = [*CARTED_EVENTS, event(1, user_id="u1")]
    batch = {
        "sessions": [
            {"tenant_id": "acme", "session_id": name, "events": mine} for name in ("s3", "s4")
        ]
    }
    with TestClient(app) as client:
        answers = [ask(client, mine, session_id=f"s{number}").json() for number in range(3)]
        answers += client.post("/predict/batch", json=batch).json()["answers"]
        ask(client, [])
    lines = logged(store)

    assert not list(store.live.iterdir())
    assert answers == [{name: line[name] for name in CONTRACT} for line in lines]
    assert {
        (line["anonymous_id"], line["user_id"], line["event_count"], line["point_at"])
        for line in lines
    } == {("a1", "u1", 2, "2026-01-05 10:02:00Z")}
    assert [line["latency_ms"] is None for line in lines] == [False] * 3 + [
        True
    ] * 2  # a batch's time is no answer's
    assert len({line["features_hash"] for line in lines}) == 1


def test_a_log_lands_when_it_is_full_or_old_and_goes_on_in_a_new_file(store):
    full, old = PredictionLog(store, most_bytes=30), PredictionLog(store, most_seconds=0)

    for number in range(4):
        full.append({"request_id": f"{number:012}"})
    old.append({"request_id": "x"})
    old.tend()

    assert sorted(line["request_id"] for line in logged(store)) == [
        *(f"{number:012}" for number in range(4)),
        "x",
    ]
    assert (full.written, full.lost, old.waiting_seconds) == (4, 0, 0)


def test_a_log_that_cannot_land_says_so_until_it_has_and_its_wait_grows(store):
    kept = PredictionLog(store, most_seconds=0)
    kept.append({"request_id": "x"})
    store.raw.write_text("a file where the folder belongs")

    kept.tend()
    waited = kept.waiting_seconds
    kept.append({"request_id": "y"})
    troubled, waits_on = kept.trouble, kept.waiting_seconds > waited
    store.raw.unlink()
    kept.land()

    assert "raw" in troubled and waits_on
    assert ([line["request_id"] for line in logged(store)], kept.trouble) == (["x", "y"], None)


def test_a_deleted_log_is_replaced_by_a_new_file_and_its_lines_count_as_lost(store):
    kept = PredictionLog(store)
    kept.append({"request_id": "deleted"})
    next(store.live.iterdir()).unlink()

    kept.tend()
    kept.append({"request_id": "x"})
    kept.land()

    assert ([line["request_id"] for line in logged(store)], kept.lost) == (["x"], 1)


def test_a_log_without_a_process_lands_once_less_a_line_that_was_cut_off(store):
    held = PredictionLog(store)
    held.append({"request_id": "held"})
    (store.live / "killed.jsonl").write_text('{"request_id": "whole"}\n{"request_id": "cut')
    (store.live / "empty.jsonl").touch()

    landed = [land_leftovers(store), land_leftovers(store)]

    assert landed == [2, 0]
    assert logged(store) == [{"request_id": "whole"}]
    assert len(list(store.live.iterdir())) == 1


def test_answers_go_on_without_their_log_and_health_and_start_page_report_it(store, bundle):
    store.live.write_text("a file where the folder belongs")

    with TestClient(app) as client:
        assert ask(client, CARTED_EVENTS).status_code == 200
        state, page = client.get("/health").json()["prediction_log"], client.get("/").text
        store.live.unlink()
        ask(client, CARTED_EVENTS)
        state_after = client.get("/health").json()["prediction_log"]
        page_after = client.get("/").text

    assert "not written" in state and "1 answers" in state
    assert "with problems</h1>" in page and "Not written: " in page
    assert state_after == "written" and "monitoring has not run yet" in page_after
    assert len(logged(store)) == 1


def test_a_server_of_another_user_says_so_and_recovers(store, bundle, monkeypatch):
    def denied(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self.salt))

    monkeypatch.setattr(Store, "read_salt", denied)
    monkeypatch.setattr(prediction_log.os, "access", lambda *_: False)
    with TestClient(app) as client:
        refused, health = client.get("/ready"), client.get("/health").json()
        page = client.get("/")
        monkeypatch.undo()
        monkeypatch.setenv("STORE_ROOT", str(store.root))
        store.salt.write_text("salt")
        client.portal.call(app.state.champions.refresh)
        ready = client.get("/ready")

    assert refused.status_code == 503
    assert f"{store.salt} cannot be read by the user" in refused.json()["detail"]
    assert "the user who runs the pipeline" in refused.json()["detail"]
    assert health["prediction_log"].startswith("not written (Permission denied: ")
    assert page.status_code == 200 and "cannot be read by the user" in page.text
    assert ready.status_code == 200


def test_without_a_champion_every_answer_names_the_way_out(store):
    with TestClient(app) as client:
        for response in (ask(client, [event(1)]), client.get("/ready"), client.get("/model")):
            assert response.status_code == 503
            assert "make deploy" in response.json()["detail"]
        assert client.get("/health").status_code == 200


HOSTILE = {
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "no events": b'{"tenant_id": "acme", "events": []}',
    "an event that is a number": b'{"tenant_id": "acme", "events": [1]}',
    "not JSON": b"{'a': 1}",
    "not UTF-8": b'{"tenant_id": "\xff"}',
    "deep nesting": b'{"tenant_id": "acme", "events": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep payload": json.dumps({"tenant_id": "acme", "events": [event(1)]}).encode()[:-3]
    + b', "x": '
    + b'{"a":' * 5_000
    + b"1"
    + b"}" * 5_000
    + b"}]}",
}
BAD_FIELDS = {
    "price": [-1, float("nan"), float("inf"), 1e300, "19.9", True, [], {}],
    "quantity": [-1, 2**40, 1.5, "1"],
    "occurred_at": [
        "yesterday",
        5,
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "infinity",
        None,
        "",
    ],
    "event_type": [None, 5, "", "  "],
    "device": [5, ["mobile"]],
    "event_id": ["", 7],
    "whatever": [float("nan"), float("-inf")],
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_body_that_is_no_request_is_unprocessable(client, body):
    response = client.post("/predict", content=body, headers=JSON)

    assert response.status_code == 422
    assert response.json()["detail"][0]["msg"]


@pytest.mark.parametrize(
    ("field", "value"), [(name, value) for name, values in BAD_FIELDS.items() for value in values]
)
def test_a_bad_field_is_named_with_the_number_of_its_event(client, field, value):
    body = json.dumps({"tenant_id": "acme", "events": [event(1), event(2, **{field: value})]})

    response = client.post("/predict", content=body, headers=JSON)
    error = response.json()["detail"][0]

    assert response.status_code == 422
    assert error["loc"][:3] == ["body", "events", 1]
    assert field in [*error["loc"], "whatever"]


def test_a_raw_line_is_unprocessable_with_the_way_to_the_columns(client):
    response = ask(client, [{"event": {"type": "page_view", "ts": "2026-01-01T10:00:00Z"}}])

    assert response.status_code == 422
    assert "canonical columns, which GET /docs lists" in response.json()["detail"][0]["msg"]


@pytest.mark.parametrize(
    "tenant_id", ["", "..", "../x", "a/b", "x" * 65, "a b", "'; drop table requests; --", None, 7]
)
def test_a_malformed_tenant_is_unprocessable(client, tenant_id):
    response = ask(client, [event(1)], tenant_id=tenant_id)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "tenant_id"]


def test_an_event_of_another_tenant_is_unprocessable(client):
    response = ask(client, [event(1), event(2, tenant_id="globex")])

    assert response.status_code == 422
    assert "events.1.tenant_id" in response.json()["detail"][0]["msg"]


def test_too_much_is_refused_and_the_limit_itself_is_not(client):
    many = [event(1, event_id=f"e{number}") for number in range(1_001)]

    assert ask(client, many).status_code == 413
    for field in (
        {"device": "x" * 5_000},
        {"event_type": "x" * 513},
        {"payload": "x" * 70_000},
        {"own": "x" * 70_000},
    ):
        refused = ask(client, [event(1, **field)])
        assert (refused.status_code, refused.json()["detail"][0]["loc"][:3]) == (
            413,
            ["body", "events", 0],
        )
    assert ask(client, many[:1_000]).status_code == 200
    assert ask(client, many * 10).status_code == 413
    assert client.post("/predict", content=b" " * (MOST_BYTES + 1), headers=JSON).status_code == 413


@pytest.mark.parametrize(
    "text",
    [
        "'; drop table requests; --",
        '"}]',
        "\x00",
        "\U0001f6d2",
        "\u202e",
        "\\",
        "{{ 7*7 }}",
        "x" * 4_000,
    ],
)
def test_odd_text_is_only_text(client, text):
    odd = event(
        2,
        event_type="cart_add",
        page=text,
        query=text,
        device=text,
        payload={text: text},
        other=text,
    )

    response = ask(client, [event(1), odd], tenant_id="unheard-of")

    assert response.status_code == 200
    assert response.json()["probability"] == CARTED


def test_random_json_is_never_the_servers_fault(client):
    dice = random.Random(7)
    values = [
        None,
        0,
        -1,
        1e308,
        "",
        "a",
        "2026-01-01T00:00:00Z",
        [],
        {},
        [[]],
        True,
        "NaN",
        10**400,
    ]

    for _ in range(300):
        fields = {dice.choice([*EVENT_COLUMNS, "x"]): dice.choice(values) for _ in range(3)}
        body = {
            "tenant_id": "acme",
            "events": [dice.choice([event(1, **fields), dice.choice(values)])],
        }
        response = client.post(
            "/predict",
            content=json.dumps(dice.choice([body, body, dice.choice(values)])),
            headers=JSON,
        )
        assert response.status_code in (200, 422), (fields, response.text)


def test_an_event_type_that_training_never_saw_is_named_in_the_answer_and_counted(store):
    bundle = make_bundle(store, vocabulary={"event_types": ["cart_add", "page_view"]})
    promote(store, "shared", bundle.version, run="run-1", **WHO)
    odd = [event(number, event_type=f"x{number}" * 100) for number in range(2, 20)]

    with TestClient(app) as client:
        usual = ask(client, CARTED_EVENTS).json()
        answer = ask(client, [event(1), event(2, event_type="card_add")]).json()
        many = ask(client, odd).json()
        counted = client.get("/metrics").text

    assert "warnings" not in usual
    (warning,) = answer["warnings"]
    assert warning.endswith("event_type 'card_add'. Did you mean cart_add?")
    assert answer["probability"] == BROWSED and "warnings" not in logged(store)[1]
    assert len(many["warnings"]) == 5 and all(len(each) < 150 for each in many["warnings"])
    assert 'predictions_with_warnings_total{champion="shared"} 2.0' in counted


def test_an_unknown_tenant_and_a_column_that_no_event_has_are_named_in_the_answer(store):
    columns = ["tenant_id", "device", "anonymous_id", "event_number", "file"]
    trained = {"tenants": ["acme", "globex"], "columns": columns}
    bundle = make_bundle(store, vocabulary=trained)
    promote(store, "shared", bundle.version, run="run-1", **WHO)
    raw = {"event_type": "page_view", "occurred_at": "2026-01-05T10:00:00Z", "platform": "ios"}

    with TestClient(app) as client:
        usual = ask(client, CARTED_EVENTS).json()
        answer = ask(client, [raw], tenant_id="globbex").json()

    assert "warnings" not in usual
    columns, tenant = answer["warnings"]
    assert columns.startswith("No event has anonymous_id, device, which nearly all")
    assert tenant.endswith("no tenant 'globbex'. Did you mean globex?")


def test_no_decision_is_made_before_the_first_point_or_after_the_outcome(store):
    outcome = "event_type = 'purchase' and price > 5"
    bundle = make_bundle(store, first_point=2, outcome=outcome)
    promote(store, "shared", bundle.version, run="run-1", **WHO)
    bought = event(3, event_type="purchase", price=9.5)
    sessions = [[event(1)], CARTED_EVENTS, [*CARTED_EVENTS, bought], [bought]]

    with TestClient(app) as client:
        bodies = [{"tenant_id": "acme", "events": events} for events in sessions]
        response = client.post("/predict/batch?explain=true", json={"sessions": bodies})
        counted = client.get("/metrics").text

    answers, lines = response.json()["answers"], logged(store)
    for rows in (answers, lines):
        assert [(row["status"], row["probability"], row["decision"]) for row in rows] == [
            ("too_early", None, None),
            ("predicted", CARTED, True),
            ("had_outcome", None, None),
            ("had_outcome", None, None),
        ]
    assert [bool(answer.get("reasons")) for answer in answers] == [False, True, False, False]
    assert "prediction_score_count" in counted


def test_an_outcome_may_read_every_column_of_an_event(store):
    outcome = (
        "events.event_number >= 3 and (payload ->> '$.plan') = 'pro' and hour(occurred_at) < 24"
    )
    model = LoadedModel(make_bundle(store, outcome=outcome))
    events = [event(number, plan="pro") for number in (1, 2, 3)]

    predictions = model.predict([("acme", "s", events[:2]), ("acme", "s", events)])

    assert [each.status for each in predictions] == ["predicted", "had_outcome"]


def test_the_outcomes_of_more_events_than_are_remembered_stay_right(store, monkeypatch):
    monkeypatch.setattr(features, "_MOST_JUDGED", 1)
    model = LoadedModel(make_bundle(store, outcome="price > 5"))

    statuses = [
        model.predict([("acme", "s", [event(1, price=price)])])[0].status
        for price in (9.5, 1.0, 2.0, 9.5, 1.0)
    ]

    assert statuses == ["had_outcome", "predicted", "predicted", "had_outcome", "predicted"]


def test_events_that_the_features_cannot_read_are_unprocessable_and_their_neighbours_are_not(
    store, caplog
):
    strict = FEATURE_SQL.replace("max(price)", "max(cast(payload ->> '$.cost' as integer))")
    bundle = make_bundle(store, sql=strict)
    promote(store, "shared", bundle.version, run="run-1", **WHO)

    async def both():
        async with serving() as client:
            return await asyncio.gather(
                post(client, [event(1, cost="private")]), post(client, CARTED_EVENTS)
            )

    bad, good = asyncio.run(both())

    assert [None, CARTED] == [line["probability"] for line in logged(store)]
    assert bad.status_code == 422
    assert "private" not in bad.text + caplog.text and "INT32" in caplog.text
    assert good.json()["probability"] == CARTED


# Features


def test_requests_in_one_batch_do_not_see_each_other():
    same_ids = {"session_id": "s1", "anonymous_id": "a1", "tenant_id": "acme"}
    one = [event(1, **same_ids), event(2, **same_ids, event_type="cart_add", price=9.5)]
    other = [event(1, **same_ids)]
    query = query_over()

    alone = [query.compute([one]).iloc[0], query.compute([other]).iloc[0]]
    together = query.compute([one, other] * 20)

    for place, row in together.iterrows():
        expected = alone[place % 2]
        assert (row["event_count"], row["cart_add_count"]) == (
            expected["event_count"],
            expected["cart_add_count"],
        )
        assert row["max_price"] == 9.5 if place % 2 == 0 else row.isna()["max_price"]


def test_requests_that_name_the_same_session_stay_apart_for_sql_that_goes_by_it_too():
    sql = """
    select entity_id, session_id, count(*) as event_count from "warehouse"."main"."events_at_point" group by all
    """

    frame = query_over(sql).compute(
        [[event(1, session_id="s1")], [event(1, session_id="s1"), event(2, session_id="s1")]]
    )

    assert frame["event_count"].tolist() == [1, 2]
    assert frame["session_id"].nunique() == 2


def test_nothing_stays_of_a_request_that_was_answered_or_failed():
    query = query_over(
        FEATURE_SQL.replace("max(price)", "max(cast(payload ->> '$.cost' as integer))")
    )

    for events in ([event(1)], [event(1, cost="much")]):
        with suppress(duckdb.Error):
            query.compute([events])

    assert query.compute([[event(7)]])["event_count"].tolist() == [1]


def test_rows_come_in_the_order_of_the_requests():
    requests = [
        [event(number, tenant_id="acme") for number in range(1, count + 1)]
        for count in (5, 1, 12, 3, 11, 2)
    ]

    assert query_over().compute(requests)["event_count"].tolist() == [5, 1, 12, 3, 11, 2]


def test_repeated_events_count_once_and_the_first_is_kept():
    repeated = [event(1, price=1.0), event(2), event(1, price=99.0)]

    row = query_over(ONE_ROW).compute([repeated]).iloc[0]

    assert (row["ids"], float(row["price"])) == ("e1 e2", 1.0)


def test_events_without_an_id_are_repeats_only_when_they_are_identical():
    nameless = [
        {"event_type": "page_view", "occurred_at": "2026-01-05T10:00:00Z", "page": page}
        for page in "aab"
    ]

    assert query_over().compute([nameless])["event_count"].tolist() == [2]


def test_events_are_ordered_by_time_then_as_given_and_the_point_is_the_last():
    moments = {"c": "10:00:00", "b": "10:05:00", "a": "10:05:00", "d": "10:01:00"}
    events = [
        event(event_id=key, occurred_at=f"2026-01-05T{moment}Z") for key, moment in moments.items()
    ]

    row = query_over(ONE_ROW).compute([events]).iloc[0]

    assert row["ids"] == "c d b a"
    assert row["point_at"] == datetime(2026, 1, 5, 10, 5)


def test_events_of_one_time_are_ordered_by_their_sequence_and_without_one_as_given():
    sequences = {"d": None, "c": None, "b": 10, "a": 9}
    at = "2026-01-05T10:00:00Z"
    events = [event(event_id=key, occurred_at=at, sequence=each) for key, each in sequences.items()]

    assert query_over(ONE_ROW).compute([events]).iloc[0]["ids"] == "a b d c"


@pytest.mark.parametrize(
    "moment",
    [
        "2026-01-05T10:00:00Z",
        "2026-01-05T12:00:00+02:00",
        "2026-01-05T10:00:00",
        "2026-01-05 10:00:00.000",
    ],
)
def test_times_are_utc_and_a_time_without_a_zone_is_taken_as_utc(moment):
    parsed = TypeAdapter(Event).validate_json(json.dumps(event(1, occurred_at=moment)))
    row = query_over(ONE_ROW).compute([[parsed]]).iloc[0]

    assert row["first_at"] == datetime(2026, 1, 5, 10)
    assert query_over(ONE_ROW).compute([[event(1, occurred_at=moment)]])["first_at"][0] == datetime(
        2026, 1, 5, 10
    )


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"colour": "red"}, {"colour": "red"}),
        ({"payload": {"size": 4}}, {"size": 4}),
        ({"payload": '{"size": 4}', "colour": "red"}, {"size": 4, "colour": "red"}),
        ({"payload": {"colour": "blue"}, "colour": "red"}, {"colour": "blue"}),
        ({"payload": "words", "colour": "red"}, {"payload": "words", "colour": "red"}),
        ({"payload": "words"}, {"payload": "words"}),
        ({"payload": '"\\ud800"'}, {"payload": '"\\ud800"'}),
        ({"payload": "[" * 9_000}, {"payload": "[" * 9_000}),
        ({"entity_id": "e", "payload": '{"a":1}'}, {"entity_id": "e", "a": 1}),
    ],
)
def test_unknown_fields_go_to_the_payload_beside_what_it_has(sent, kept):
    row = query_over(ONE_ROW).compute([[event(1, **sent)]]).iloc[0]

    assert json.loads(row["payload"]) == kept


def test_text_is_trimmed_and_an_empty_one_is_none_as_in_staging():
    sql = 'select entity_id, page, device from "warehouse"."main"."events_at_point"'

    row = query_over(sql).compute([[event(1, page=" product ", device="  ")]]).iloc[0]

    assert row["page"] == "product"
    assert row.isna()["device"]


def test_an_address_in_an_id_is_hashed_as_staging_hashes_it():
    sql = """select entity_id, user_id, left(sha256('salt' || 'ada@example.com'), 32) as hashed
        from "warehouse"."main"."events_at_point" group by all"""
    addresses = ("ada@example.com", "ada%40example.com")
    rows = [rows_of_request(0, None, [event(1, user_id=address)], "salt") for address in addresses]

    for row in (query_over(sql).run([each]).iloc[0] for each in rows):
        assert row["user_id"] == row["hashed"]


def test_a_feature_reads_the_hash_of_a_personal_value_in_small_and_large_requests(
    store, monkeypatch
):
    """As in training. A snapshot's events have the hash already, and are not hashed again."""
    sql = FEATURE_SQL.replace("max_by(device, event_number)", "max(payload ->> '$.of.name')")
    bundle = make_bundle(store, sql=sql, personal_fields=["name"])
    promote(store, "shared", bundle.version, run="run-1", **WHO)
    store.salt.write_text("salt")

    with TestClient(app) as client:
        ask(client, [event(1, of={"name": "Ann"})])
        monkeypatch.setattr(app_module, "SMALL", 10)
        ask(client, [event(1, of={"name": "Ann"})])

    kept = [event(1, of={"name": hash_text("Ann", "salt")})]
    (prediction,) = LoadedModel(bundle).predict([("acme", "s", kept)])
    assert [line["features_hash"] for line in logged(store)] == [prediction.features_hash] * 2


@pytest.mark.parametrize(
    "text",
    ['{"name": ', '"name": [[[[[', '"name"  ', "\\", '\\"name\\": \\"', '"name": "Ann", ', '"', "a"],
)  # fmt: skip
def test_a_payload_with_many_personal_keys_is_hashed_in_linear_time(text):
    began = time.perf_counter()

    hash_personal(text * (439_000 // len(text)), ["name"], "salt")

    assert time.perf_counter() - began < 2


def test_one_long_word_with_an_at_sign_is_read_at_once():
    began = time.perf_counter()

    assert hash_addresses("@" + "a" * 40_000, "salt") == "@" + "a" * 40_000
    assert time.perf_counter() - began < 1


def test_prices_are_decimals_with_four_places():
    sql = 'select entity_id, typeof(price) as type_, price::varchar as price from "warehouse"."main"."events_at_point"'

    frame = query_over(sql).compute(
        [[event(1, price=price)] for price in (0.1, 1e-05, 19.99995, 1e12, 5)]
    )

    assert set(frame["type_"]) == {"DECIMAL(18,4)"}
    assert frame["price"].tolist() == [
        "0.1000",
        "0.0000",
        "20.0000",
        "1000000000000.0000",
        "5.0000",
    ]


def test_lookups_are_joined_as_of_the_day_and_only_for_their_tenant(popular_products):
    def request(tenant_id, day):
        return [
            event(1, tenant_id=tenant_id, product_id="p1", occurred_at=f"2026-01-{day}T10:00:00Z")
        ]

    requests = [request("acme", "03"), request("acme", "05"), request("globex", "05")]

    popularity = query_over(files=popular_products).compute(requests)["product_popularity"]
    nothing = query_over().compute(requests)["product_popularity"]

    assert popularity.fillna(-1).tolist() == [5, 500, -1]
    assert nothing.isna().all()


def test_a_server_holds_recent_intervals_alone(popular_products):
    request = [event(1, tenant_id="acme", product_id="p1", occurred_at="2026-01-03T10:00:00Z")]

    frames = [
        query_over(files=popular_products, days=days).compute([request]) for days in (None, 1, 0)
    ]

    assert [frame["product_popularity"].fillna(-1)[0] for frame in frames] == [5, 5, -1]


def test_recent_is_counted_from_the_end_of_the_data_and_not_from_a_late_row(popular_products):
    request = [event(1, tenant_id="acme", product_id="p1", occurred_at="2026-01-03T10:00:00Z")]

    frames = [
        query_over(files=popular_products, days=1, until=until).compute([request])
        for until in (datetime(2026, 1, 5, 20), datetime(2026, 1, 6, 20))
    ]

    assert [frame["product_popularity"].fillna(-1)[0] for frame in frames] == [5, -1]


def test_a_query_that_forgets_what_duckdb_keeps_of_its_runs_answers_as_before(
    popular_products, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    query, request = (
        query_over(files=popular_products),
        [event(1, tenant_id="acme", product_id="p1")],
    )

    before = query.compute([request])
    for _ in range(120):
        query.compute([request])

    pd.testing.assert_frame_equal(before, query.compute([request]))
    assert not (tmp_path / ".tmp").exists()  # where DuckDB would spill to


def test_a_tenants_own_champion_holds_its_own_lookups_alone(popular_products):
    request = [event(1, tenant_id="acme", product_id="p1", occurred_at="2026-01-05T10:00:00Z")]

    frames = [
        query_over(files=popular_products, tenant=tenant).compute([request])
        for tenant in ("acme", "globex")
    ]

    assert [frame["product_popularity"].fillna(-1)[0] for frame in frames] == [500, -1]


def no_events(store):
    """A snapshot without an event before any point."""
    columns = "'' as tenant_id, '' as entity_id, null::timestamp as point_at"
    return SimpleNamespace(
        store=store, events_at_point="events_at_point", scan=lambda _: f"(select {columns})"
    )


NO_SELECT = [
    "",
    "copy (select 1 as a) to '{path}'",
    "create table x as select 1",
    "set threads = 2",
]


@pytest.mark.parametrize("sql", [*NO_SELECT, *(f"{FEATURE_SQL}; {sql}" for sql in NO_SELECT[1:])])
def test_the_features_of_a_bundle_are_one_select_online_and_in_batch(tmp_path, sql):
    path = tmp_path / "written.csv"
    bundle = SimpleNamespace(feature_sql=sql.format(path=path), lookups={}, question={})
    events = no_events(Store(tmp_path))

    with pytest.raises(UserError, match="must be one SELECT statement"):
        query_over(bundle.feature_sql)
    with pytest.raises(UserError, match="must be one SELECT statement"):
        list(batch_scores._compute_features(bundle, events, pd.DataFrame([KEY])))

    assert not path.exists()


def test_an_id_that_a_spreadsheet_takes_for_a_formula_is_quoted_in_the_csv_alone(tmp_path):
    ids = ["=HYPERLINK(0)", "+1", "-1", "@x", "\t=1", "a=b", "x,y", '"', "'=1"]
    scores = pd.DataFrame({"tenant_id": "acme", "entity_id": ids, "probability": 0.5})

    batch_scores.write_scores(tmp_path, scores, batch_scores.MOST_PROBABLE_FIRST)
    csv, parquet = (
        duckdb.sql(f"select entity_id from '{tmp_path}/scores.{suffix}'").fetchall()
        for suffix in ("csv", "parquet")
    )

    assert sorted(id for (id,) in parquet) == sorted(ids)
    quoted = [f"'{id}" if id[0] in "=+-@\t" else id for id in ids]
    assert sorted(id for (id,) in csv) == sorted(quoted)


def test_a_bundles_sql_and_lookups_open_no_other_file(tmp_path, popular_products):
    (tmp_path / "secret.csv").write_text("secret")
    reads = f"select * from read_text('{tmp_path}/secret.csv')"
    writes = {"t": {"a": f"int); copy (select 1) to '{tmp_path}/written.csv'; --"}}

    with pytest.raises(duckdb.PermissionException):
        Query(reads, LOOKUPS, popular_products)
    with pytest.raises(duckdb.PermissionException):
        Query(FEATURE_SQL, writes)
    events = no_events(Store(tmp_path / "store"))
    with pytest.raises(duckdb.PermissionException):
        bundle = SimpleNamespace(feature_sql=reads, lookups={}, question={})
        list(batch_scores._compute_features(bundle, events, pd.DataFrame([KEY])))

    assert not (tmp_path / "written.csv").exists()


def test_a_query_that_loses_sessions_is_an_error_not_a_wrong_answer():
    losing = FEATURE_SQL.replace("left join products", "inner join products")

    with pytest.raises(ValueError, match=r"gave 0 rows for 2 sessions"):
        query_over(losing).compute([[event(1)], [event(1)]])


# Champions


def test_a_bundle_that_answers_its_sample_otherwise_is_refused(store):
    bundle = make_bundle(store, sql=FEATURE_SQL.replace("'cart_add'", "'cart_remove'"))

    with pytest.raises(UserError, match=r"its own sample with 0.05.*0.4.*make deploy"):
        LoadedModel(bundle)


def test_a_model_that_cannot_be_loaded_is_named_with_what_to_do(bundle):
    (bundle.model / "model.json").write_text('{"schema": {"features": []}}')

    with pytest.raises(
        UserError, match=rf"{bundle.version} cannot be loaded.*KeyError.*make train deploy"
    ):
        LoadedModel(bundle)


@asynccontextmanager
async def serving():
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            yield client


async def post(client, events, tenant_id="acme"):
    return await client.post("/predict", json={"tenant_id": tenant_id, "events": events})


def test_waiting_requests_are_answered_in_batches_each_its_own(bundle, monkeypatch):
    sizes = []
    predict = LoadedModel.predict_rows
    monkeypatch.setattr(
        LoadedModel,
        "predict_rows",
        lambda self, requests, rows: sizes.append(len(rows)) or predict(self, requests, rows),
    )

    async def crowd():
        async with serving() as client:
            return await asyncio.gather(
                *(post(client, CARTED_EVENTS if n % 2 else [event(1)]) for n in range(40))
            )

    answers = asyncio.run(crowd())

    assert [answer.json()["probability"] for answer in answers] == [BROWSED, CARTED] * 20
    assert max(sizes) > 5


def test_large_bodies_that_are_not_complete_are_bounded_together_and_small_ones_go_on(
    bundle, monkeypatch
):
    monkeypatch.setattr(request_body, "MOST_UNANSWERED_BYTES", 250_000)

    async def slow(is_over):
        yield b" " * 200_000
        await is_over.wait()
        yield json.dumps({"tenant_id": "acme", "events": [event(1)]}).encode()

    async def crowd():
        async with serving() as client:
            is_over = asyncio.Event()

            def send():
                posting = client.post("/predict", content=slow(is_over), headers=JSON)
                return asyncio.create_task(posting)

            first = send()
            await asyncio.sleep(0.1)
            refused, small = await send(), await post(client, CARTED_EVENTS)
            is_over.set()
            return refused, small, await first, await send()

    refused, *answered = asyncio.run(crowd())

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "250,000 bytes" in refused.json()["detail"]
    assert [answer.status_code for answer in answered] == [200] * 3


def test_a_large_request_gives_turns_to_small_ones_and_is_answered_as_its_parts_are(
    bundle, monkeypatch
):
    monkeypatch.setattr(app_module, "SMALL", 2_000)
    order = []
    predict = LoadedModel.predict_rows
    monkeypatch.setattr(
        LoadedModel,
        "predict_rows",
        lambda self, requests, rows: (
            order.append([session[1] for _, session, _ in requests])
            or predict(self, requests, rows)
        ),
    )
    late = [event(2, event_type="cart_add", page="a@x.de b"), event(1)]
    sessions = [
        {
            "tenant_id": "acme",
            "session_id": f"s{number}",
            "events": late if number % 2 else late[1:],
        }
        for number in range(400)
    ]

    async def crowd():
        async with serving() as client:
            batch = asyncio.create_task(
                client.post("/predict/batch", json={"sessions": sessions}, timeout=60)
            )
            while not any("s0" in entities for entities in order) and not batch.done():
                await asyncio.sleep(0)
            body = {"tenant_id": "acme", "session_id": "small", "events": [event(1)]}
            small = await client.post("/predict", json=body)
            return small, batch.done(), await batch

    small, is_batch_done, batch = asyncio.run(crowd())
    passes = [number for number, entities in enumerate(order) if "small" in entities]

    assert small.status_code == batch.status_code == 200 and not is_batch_done
    assert passes[0] < len(order) - 2
    answers = batch.json()["answers"]
    assert [answer["entity_id"] for answer in answers] == [f"s{number}" for number in range(400)]
    assert [answer["probability"] for answer in answers] == [BROWSED, CARTED] * 200


def test_the_rows_of_a_large_request_are_those_of_its_events():
    events = [
        event(3, price=12.345, quantity=2, page=" a@x.de ", own={"mail": "b@x.de", "name": "Ann"}),
        event(1, occurred_at="2026-01-05T10:30:00.123456+02:00", device="", entity_id="e"),
        {"event_type": "a", "occurred_at": "2026-01-05T10:30:00"},
        {"event_type": "a", "occurred_at": "2026-01-05T10:30:00", "payload": {"b": 1}},
        event(3),
    ]
    body = json.dumps({"tenant_id": "acme", "session_id": "s1", "events": events})
    request = PredictRequest.model_validate_json(body)
    expected = rows_of_request(7, "acme", request.rows, "salt", ["name"])

    rows_of = partial(rows_of_request, salt="salt", personal_fields=["name"])
    request.prepare_rows(SimpleNamespace(rows_of=lambda *given: rows_of(*given[:3])))

    assert rows_of_request(7, "acme", request.rows, "salt", ["name"]) == expected
    assert len(expected) == 4 and request.rows is not request.events


def test_a_request_that_is_unfinished_when_the_server_stops_is_answered_503(bundle):
    sent = []

    async def never():
        await asyncio.Event().wait()

    async def keep(message):
        sent.append(message)

    async def story():
        async with app.router.lifespan_context(app):
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/predict",
                "query_string": b"",
                "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            }
            task = asyncio.create_task(app(scope, never, keep))
            await asyncio.sleep(0.05)
            task.cancel()  # as uvicorn does after timeout_graceful_shutdown
            await task

    asyncio.run(story())

    assert sent[0]["status"] == 503
    assert "The server stops" in sent[1]["body"].decode()


def test_a_new_champion_a_rollback_and_a_tenants_own_take_effect_without_a_restart(store, bundle):
    async def story():
        async with serving() as client:
            probabilities = []

            async def note(expected, tenant_id="acme"):
                """Keep the answer; a refresh of the server's own may come first, so look again."""
                for _ in range(100):
                    await app.state.champions.refresh()
                    response = (await post(client, CARTED_EVENTS, tenant_id)).json()
                    answer = response["champion"], response["probability"]
                    if answer == expected:
                        break
                    await asyncio.sleep(0.05)
                probabilities.append(answer)

            await note(("shared", 0.4))
            promote(store, "shared", make_bundle(store, carted=0.5).version, run="run-2", **WHO)
            await note(("shared", 0.5))
            own = make_bundle(store, owner="acme", carted=0.6).version
            promote(store, "acme", own, run="run-3", **WHO)
            await note(("acme", 0.6))
            await note(("shared", 0.5), "globex")
            store.champion("acme").unlink()
            rollback(store, **WHO)
            await note(("shared", 0.4))
            return probabilities

    assert asyncio.run(story()) == [
        ("shared", 0.4),
        ("shared", 0.5),
        ("acme", 0.6),
        ("shared", 0.5),
        ("shared", 0.4),
    ]


def test_the_pointer_is_followed_within_two_seconds_and_no_request_fails(store, bundle):
    newer = make_bundle(store, carted=0.5)

    async def until_it_answers():
        async with serving() as client:
            promote(store, "shared", newer.version, run="run-2", **WHO)
            deadline = asyncio.get_running_loop().time() + 2
            while asyncio.get_running_loop().time() < deadline:
                answer = await post(client, CARTED_EVENTS)
                assert answer.status_code == 200
                if answer.json()["model_version"] == newer.version:
                    return True
                await asyncio.sleep(0.02)
            return False

    assert asyncio.run(until_it_answers())


def test_a_broken_bundle_is_refused_the_old_one_goes_on_and_its_repair_is_noticed(store, bundle):
    newer = make_bundle(store, carted=0.5)
    promote(store, "shared", newer.version, run="run-2", **WHO)
    rollback(store, **WHO)

    async def story():
        async with serving() as client:
            rollback_pointer = store.champion("shared").read_text()
            store.champion("shared").write_text(
                rollback_pointer.replace(bundle.version, newer.version)
            )
            (newer.folder / "features.sql").write_text("select 1")
            await app.state.champions.refresh()
            before = (await post(client, CARTED_EVENTS)).json()["probability"]
            ready = await client.get("/ready")
            make_bundle(store, carted=0.5)
            await app.state.champions.refresh()
            after = (await post(client, CARTED_EVENTS)).json()["probability"]
            return before, ready, after, (await client.get("/ready")).json()["refused"]

    before, ready, after, refused = asyncio.run(story())

    assert (before, after, refused) == (0.4, 0.5, [])
    assert ready.status_code == 200
    assert "features.sql" in ready.json()["refused"][0]


@pytest.mark.parametrize("text", ["{brok", "null", "[]", "{}", '{"version": "v1", "history": []}'])
def test_a_pointer_that_names_no_champion_leaves_the_one_before_and_is_reported_in_a_sentence(
    store, bundle, caplog, text
):
    async def story():
        champions = Champions(store)
        await champions.refresh()
        store.champion("shared").write_text(text)
        await champions.refresh()
        return champions.versions(), champions.why_not()

    serving, why = asyncio.run(story())

    assert serving == {"shared": bundle.version}
    assert (
        f"{store.champion('shared')} names no champion" in why
        and "delete it, then `make deploy`." in why
    )
    assert "Traceback" not in caplog.text


def test_a_server_without_a_descriptor_to_look_with_keeps_its_champions(store, bundle, monkeypatch):
    def refuse(path):
        raise OSError(errno.EMFILE, "Too many open files")

    async def story():
        champions = Champions(store)
        await champions.refresh()
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            await champions.refresh()
        return champions.versions()

    assert asyncio.run(story()) == {"shared": bundle.version}


def test_a_broken_first_champion_is_reported_by_ready_and_by_the_start_page(store, bundle):
    (bundle.folder / "model" / "model.skops").unlink()

    with TestClient(app) as client:
        response, page = client.get("/ready"), client.get("/").text

    assert response.status_code == 503
    assert "model/model.skops" in response.json()["detail"]
    assert "<h1>No model is live</h1>" in page and "model/model.skops" in page


def test_new_lookups_are_taken_up_when_a_snapshot_is_published(store, bundle, popular_products):
    async def before_and_after():
        champions = Champions(store)
        events = [event(1, product_id="p1")]
        await champions.refresh()
        (before,) = champions.of("acme").predict([("acme", "s1", events)])
        publish_lookup(store)
        await champions.refresh()
        (after,) = champions.of("acme").predict([("acme", "s1", events)])
        return [before.probability, after.probability]

    assert asyncio.run(before_and_after()) == [BROWSED, POPULAR]


def test_a_bundle_is_tried_with_the_snapshots_lookups(store, bundle, popular_products):
    publish_lookup(store)
    champions = Champions(store, only=bundle.folder)

    asyncio.run(champions.refresh())

    (prediction,) = champions.of("acme").predict([("acme", "s1", [event(1, product_id="p1")])])
    assert prediction.probability == POPULAR


def test_a_new_challenger_comes_before_new_lookups_of_those_who_stay(
    store, bundle, popular_products, monkeypatch
):
    loaded, champions = [], Champions(store)
    load = champions._load
    monkeypatch.setattr(champions, "_load", lambda owner: loaded.append(owner) or load(owner))

    async def story():
        await champions.refresh()
        publish_lookup(store)
        write_json(store.experiment, trial_of(make_bundle(store, carted=0.6), bundle))
        await champions.refresh()

    asyncio.run(story())

    assert loaded == ["shared", CHALLENGER, "shared"]


# Tenants with a model of their own


def champions_of(store, **own):
    """The server's champions, with an own one for each tenant; `own` has its rate with a cart."""
    for tenant, rate in own.items():
        version = make_bundle(store, owner=tenant, carted=rate).version
        promote(store, tenant, version, run="run-2", **WHO)
    champions = Champions(store)
    asyncio.run(champions.refresh())
    return champions


def test_a_tenants_own_model_is_loaded_at_its_first_request_and_not_before(store, bundle):
    champions = champions_of(store, acme=0.6)

    before = champions.of("acme").bundle.owner, champions.needs("acme"), champions.needs("globex")
    asyncio.run(champions.load("acme"))

    assert before == ("shared", True, False)
    assert champions.of("acme").bundle.owner == "acme" and not champions.needs("acme")


def test_models_of_the_same_sql_share_one_query_and_its_lookups(store, bundle):
    champions = champions_of(store, acme=0.6, globex=0.5)

    for tenant in ("acme", "globex"):
        asyncio.run(champions.load(tenant))

    queries = {champions.of(tenant).query for tenant in ("acme", "globex", "initech")}
    assert len(queries) == 1


def test_the_query_that_serves_is_never_the_one_that_checks_samples_in_a_thread(store, bundle):
    champions = champions_of(store, acme=0.6)

    served, checked = champions.of("globex").query, champions._queries.of(bundle, None)

    assert served is not checked


def test_of_many_own_models_the_least_recently_used_is_dropped(store, bundle, monkeypatch):
    monkeypatch.setattr("jollyboat.serving.champions.MOST_OWN", 2)
    champions = champions_of(store, acme=0.6, globex=0.5, initech=0.7)

    for tenant in ("acme", "globex"):
        asyncio.run(champions.load(tenant))
    champions.of("acme")
    asyncio.run(champions.load("initech"))

    assert [champions.needs(tenant) for tenant in ("acme", "globex", "initech")] == [
        False,
        True,
        False,
    ]


def test_requests_of_many_tenants_are_one_query_and_each_has_its_own_models_answer(
    store, bundle, monkeypatch
):
    champions_of(store, acme=0.6, globex=0.5)
    sizes, run = [], FeatureQuery.run
    monkeypatch.setattr(
        FeatureQuery,
        "run",
        lambda self, rows, wanted=(): sizes.append(len(rows)) or run(self, rows, wanted),
    )

    async def crowd():
        async with serving() as client:
            tenants = ["acme", "globex", "initech"] * 12
            await asyncio.gather(*(post(client, CARTED_EVENTS, name) for name in tenants[:3]))
            sizes.clear()
            answers = await asyncio.gather(*(post(client, CARTED_EVENTS, name) for name in tenants))
            return [answer.json() for answer in answers]

    answers = asyncio.run(crowd())

    assert [answer["probability"] for answer in answers] == [0.6, 0.5, CARTED] * 12
    assert [answer["champion"] for answer in answers] == ["acme", "globex", "shared"] * 12
    assert max(sizes) > 3


def test_a_tenant_whose_own_bundle_is_broken_is_answered_by_the_shared_model_until_its_repair(
    store, bundle
):
    own = make_bundle(store, owner="acme", carted=0.6)
    promote(store, "acme", own.version, run="run-2", **WHO)
    features = own.folder / "features.sql"
    whole = features.read_bytes()
    features.write_text("select 1")

    async def story():
        async with serving() as client:
            broken = (await post(client, CARTED_EVENTS)).json()["champion"]
            refused = (await client.get("/ready")).json()["refused"]
            other = (await post(client, CARTED_EVENTS, "globex")).json()["champion"]
            features.write_bytes(whole)
            await app.state.champions.refresh()
            return broken, refused, other, (await post(client, CARTED_EVENTS)).json()["champion"]

    broken, refused, other, repaired = asyncio.run(story())

    assert (broken, other, repaired) == ("shared", "shared", "acme")
    assert "features.sql" in refused[0] and refused[0].startswith("acme: ")


def test_a_paused_tenant_keeps_its_version_of_the_shared_model_on_the_server(store, bundle):
    policy.pause(store, "acme", **WHO)
    promote(store, "shared", make_bundle(store, carted=0.5).version, run="run-2", **WHO)

    with TestClient(app) as client:
        answers = [
            ask(client, CARTED_EVENTS, tenant).json()["probability"] for tenant in ("acme", "b")
        ]

    assert answers == [CARTED, 0.5]


def test_no_visitor_of_a_paused_tenant_gets_the_challenger(store, bundle):
    policy.pause(store, "acme", **WHO)
    comparison = trial_of(make_bundle(store, carted=0.6), bundle)
    write_json(store.experiment, comparison | {"share": 0.9})
    champions = Champions(store)
    asyncio.run(champions.refresh())

    variants = {
        tenant: {champions.pick(tenant, f"visitor-{number}")[1] for number in range(50)}
        for tenant in ("acme", "globex")
    }

    assert variants == {"acme": {"champion"}, "globex": {"champion", "challenger"}}


def test_a_private_tenant_is_not_answered_by_the_shared_model(store, bundle):
    champions = Champions(store, private=frozenset({"acme"}))
    asyncio.run(champions.refresh())

    assert champions.of("acme") is None and champions.of("globex") is not None
    assert "acme is private" in champions.why_not("acme")


# The real process


def test_importing_the_app_touches_no_disk():
    code = "import jollyboat.serving.app, sys; sys.exit('xgboost' in sys.modules or 'sklearn' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_the_smoke_test_measures_a_real_server(bundle):
    figures = run_smoke_test(bundle.folder)

    assert figures["requests"] == 150
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] < 1_000
    assert 0 < figures["start_seconds"] < 30
    assert 20 < figures["memory_mb"] < 2_000


def test_a_failed_smoke_test_has_the_last_lines_of_the_server(store):
    bundle = make_bundle(store, sql="select nonsense")

    with pytest.raises(UserError, match=r"fails its smoke test.*not ready.*nonsense"):
        run_smoke_test(bundle.folder)


def test_workers_that_stop_refuse_new_connections_and_finish_what_they_have(
    store, bundle, monkeypatch
):
    for name, value in {"HOST": "127.0.0.1", "PORT": "0", "WORKERS": "2"}.items():
        monkeypatch.setenv(name, value)
    body = json.dumps({"tenant_id": "acme", "events": CARTED_EVENTS}).encode()
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    command = [sys.executable, *JOLLYBOAT, "serve"]

    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline().partition(";")[0].rpartition(":")[2])
            with connect(port) as client:
                client.sendall(head.encode())
                interim = client.recv(10_000)
                server.terminate()
                refused = until_refused(port, 5)
                client.sendall(body)
                response = client.recv(10_000)
            ended = server.wait(20)
        finally:
            server.kill()

    assert interim.startswith(b"HTTP/1.1 100")
    assert refused
    assert response.startswith(b"HTTP/1.1 200")
    assert ended == 0


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def until_refused(port, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connect(port).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.1)
    return False


def test_a_port_in_use_is_answered_with_a_sentence(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("PORT", port)
        monkeypatch.setenv("HOST", "127.0.0.1")

        done = subprocess.run(
            [sys.executable, *JOLLYBOAT, "serve"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert port in done.stderr and "jollyboat serve" in done.stderr
    assert "Traceback" not in done.stderr
