"""The monitor says what moved, keeps quiet where nothing did, sends an incident once, and trains for a reason."""

import json
import os
import re
import shutil
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from select import select
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pytest
from whole_path import run

from jollyboat.bundles.bundle import Parts, assemble, open_bundle
from jollyboat.champions import champion
from jollyboat.monitoring import alerts, drift, incidents, inputs, monitor_report
from jollyboat.monitoring.check import ALARM, ALL, FINE, UNKNOWN, Check, correct
from jollyboat.monitoring.drift import Table, watch
from jollyboat.monitoring.facts import Facts
from jollyboat.monitoring.monitor import judge
from jollyboat.serving import experiment
from jollyboat.snapshots import snapshot
from jollyboat.store import (
    PROJECT,
    Store,
    UserError,
    project_settings,
    read_json,
    write_json,
)
from jollyboat.training import run as runs
from jollyboat.training.schema import FeatureSchema

LIMITS = tomllib.loads((PROJECT / "project.toml").read_text())["monitor"] | {"latency_ms": 250}
DAYS = [-2, -1, 0]


def sessions(days: list[int], seed: int, a_day: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    day = np.repeat(days, a_day)
    probability = np.clip(rng.beta(1, 6, len(day)), 0.01, 0.99)
    return pd.DataFrame(
        {
            "tenant_id": rng.choice(["acme", "bolt"], len(day), p=[0.7, 0.3]),
            "day": day,
            "event_count": rng.choice([3, 5], len(day)),
            "amount": rng.normal(size=len(day)),
            "channel": rng.choice(["ads", "mail", None], len(day)),
            "score": probability,
            "probability": probability,
            "label": (rng.random(len(day)) < probability).astype(float),
        }
    )


def facts(live: pd.DataFrame | None = None, **others) -> Facts:
    reference, live = sessions(list(range(-22, -2)), 0), sessions(DAYS, 1) if live is None else live
    days = DAYS if len(live) else []
    features, outcome = (
        ["amount", "channel"],
        ["tenant_id", "day", "event_count", "probability", "label"],
    )
    volumes = (
        pd.concat([reference, live])
        .groupby(["tenant_id", "day"])
        .size()
        .reset_index(name="session_count")
    )
    arrivals = pd.DataFrame(
        {"source": "web", "day": range(-22, 1), "quarantined_count": 1, "record_count": 1000}
    )
    default = Facts(
        days=days,
        schema=FeatureSchema.from_frame(reference[features]),
        reference=reference[["tenant_id", "day", *features]],
        live=live[["tenant_id", "day", *features]],
        reference_scores=reference[["tenant_id", "day", "score"]],
        live_scores=live[["tenant_id", "day", "score"]],
        holdout=reference[outcome],
        answers=live[outcome],
        volumes=volumes,
        arrivals=arrivals,
        latency=pd.DataFrame({"day": [-1, 0], "p99_ms": [8.0, 9.0]}),
        age_hours=1.0,
        days_since_training=9.0,
    )
    return replace(default, **others)


def alarms(given: Facts) -> dict[str, Check]:
    return {check.key: check for check in judge(given, LIMITS)[0] if check.state == ALARM}


def test_days_like_those_of_training_raise_no_alarm_and_ask_for_no_training():
    checks, decision, _ = judge(facts(), LIMITS)

    assert {check.state for check in checks} == {FINE}
    assert decision["retrain"] is False


def test_a_feature_that_moved_is_one_alarm_and_not_another_one_for_each_tenant():
    live = sessions(DAYS, 1).assign(channel="mail", amount=lambda rows: rows["amount"] + 1)

    opened = alarms(facts(live))

    assert set(opened) == {"drift/all/amount", "broken/all/channel"}
    assert "mail: " in opened["broken/all/channel"].sentence


def test_drift_of_one_tenant_alone_is_an_alarm_of_that_tenant():
    live = sessions(DAYS, 1)
    live.loc[live["tenant_id"] == "bolt", "amount"] += 0.7

    assert set(alarms(facts(live))) == {"drift/bolt/amount"}


def test_a_tenants_drift_is_that_of_its_rows_alone_in_chunks_of_any_size(monkeypatch):
    columns = ["tenant_id", "day", "amount", "channel"]
    reference, live = (
        sessions(days, seed)[columns].assign(amount=lambda rows: rows["amount"].round(1))
        for seed, days in enumerate([list(range(-22, -2)), DAYS])
    )
    live.loc[live["tenant_id"] == "bolt", "channel"] = "fax"
    bolt = Table(*(rows[rows["tenant_id"] == "bolt"] for rows in (reference, live)))
    limits = LIMITS | {"windows": [1, 2]}

    monkeypatch.setattr(drift, "MOST_CELLS", 1)
    together = [
        one for one in watch([Table(reference, live)], DAYS, limits) if one.tenant == "bolt"
    ]
    alone = watch([bolt], DAYS, limits)

    assert len(together) == len(alone) == 4
    for one, other in zip(together, alone, strict=True):
        assert (one.feature, one.window, one.moved) == (other.feature, other.window, other.moved)
        assert np.allclose(one.psi, other.psi, equal_nan=True)
        assert np.allclose(one.p, other.p, equal_nan=True)
        assert one.training_swing == pytest.approx(other.training_swing)


def test_a_hundred_tenants_like_in_training_raise_no_alarm():
    def split(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(tenant_id=[f"shop_{place % 100:02}" for place in range(len(rows))])

    reference, live = (
        split(sessions(days, seed, 3000))
        for seed, days in enumerate([list(range(-30, -7)), list(range(-7, 1))])
    )
    columns = ["tenant_id", "day", "amount", "channel"]
    outcome = ["tenant_id", "day", "event_count", "probability", "label"]
    volumes = pd.concat([reference, live]).groupby(["tenant_id", "day"])
    given = facts(
        live,
        days=list(range(-7, 1)),
        reference=reference[columns],
        holdout=reference[outcome],
        reference_scores=reference[["tenant_id", "day", "score"]],
        volumes=volumes.size().reset_index(name="session_count"),
    )

    assert not alarms(given)
    assert {one["drift"]["state"] for one in judge(given, LIMITS)[2].values()} == {"fine"}


def test_a_swing_that_the_days_of_training_show_too_is_no_drift():
    reference, live = (
        sessions(days, seed).assign(amount=lambda rows: rows["day"] % 7)
        for seed, days in enumerate([range(-22, -2), DAYS])
    )
    tables = [Table(*(rows[["tenant_id", "day", "amount"]] for rows in (reference, live)))]

    assert not any(series.is_open for series in watch(tables, DAYS, LIMITS | {"windows": [1]}))


def test_an_incident_ends_well_below_the_limit_and_a_season_raises_the_limit_it_has_shown():
    day = np.repeat(np.arange(120), 300)
    amount = np.random.default_rng(0).normal(size=len(day)) + np.sin(
        2 * np.pi * np.maximum(day - 20, 0) / 20
    )
    rows = pd.DataFrame({"tenant_id": "acme", "day": day, "amount": amount})
    table = Table(rows[day < 20], rows[day >= 20])

    (series,) = watch([table], range(20, 120), LIMITS | {"windows": [1]})

    opened = np.flatnonzero(np.diff(series.state["is_open"].astype(int), prepend=0) == 1)
    assert len(opened) > 0
    assert (opened < 20).all()


def test_a_model_that_ranks_no_longer_is_below_the_ballpark_and_unknown_outcomes_are_no_failures():
    live = sessions(DAYS, 1)
    worse = live.assign(label=np.random.default_rng(0).permutation(live["label"]))
    waiting = live.assign(label=np.nan)

    assert "quality/all/average precision" in alarms(facts(worse))
    quality = [check.state for check in judge(facts(waiting), LIMITS)[0] if check.name == "quality"]
    assert set(quality) == {UNKNOWN}


def test_quality_has_a_figure_for_each_day_with_enough_outcomes():
    live = sessions(DAYS, 1)
    live["label"] = live["label"].where(live["day"] > -2)
    worse = live.assign(
        label=live["label"].where(
            live["day"] < 0, np.random.default_rng(0).permutation(live["label"])
        )
    )

    checks = judge(facts(worse), LIMITS | {"windows": [1]})[0]
    rank, rate = (check for check in checks if check.key.startswith("quality/all"))

    assert rank.history[0] is rate.history[0] is None
    assert rank.history[1] > rank.limit > rank.history[2] == rank.value
    assert rate.history[2] == rate.value


def test_more_outcomes_than_predicted_are_an_alarm():
    live = sessions(DAYS, 1)
    often = live.assign(
        label=np.maximum(live["label"], np.random.default_rng(0).random(len(live)) < 0.1)
    )

    assert "quality/all/rate of outcomes" in alarms(facts(often))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"age_hours": 40.0}, "freshness/all/data"),
        ({"latency": pd.DataFrame({"day": [0], "p99_ms": [900.0]})}, "latency/all/answers"),
        (
            {
                "arrivals": pd.DataFrame(
                    {"source": "web", "day": [0], "quarantined_count": [90], "record_count": [1000]}
                )
            },
            "quarantine/all/records",
        ),
        (
            {"live": sessions(DAYS, 1).assign(channel="tv")},
            "unknown category/all/channel",
        ),
    ],
)
def test_each_limit_is_watched(change, key):
    assert key in alarms(facts(**change))


def test_each_source_is_judged_by_its_own_newest_day_and_the_worst_is_named():
    account = pd.DataFrame(
        {
            "source": ["web", "web", "orders", "predictions"],
            "arrived_on": pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-02", "2026-05-01"]),
            "quarantined_count": [0, 126, 30, 0],
            "line_count": 1001,
            "blank_count": 1,
        }
    )

    arrivals = inputs._arrivals(SimpleNamespace(relation=lambda _: duckdb.from_df(account)))
    check = alarms(facts(arrivals=arrivals))["quarantine/all/records"]

    assert check.sentence == "12.6 % of the newest day's records of web are quarantined."
    assert check.history == (None, 0.0, 0.126)


def test_sessions_without_a_feature_event_count_have_the_number_of_their_point():
    tables = {
        "session_features": "select 'acme' as tenant_id, 's' as entity_id, 'train' as status",
        "sessions": "select 'acme' as tenant_id, 's' as session_id, 4 as point_number",
    }
    opened = SimpleNamespace(
        features="session_features",
        definition={},
        relation=lambda table: duckdb.sql(tables[table]),
    )

    assert [4] == inputs._rows(opened, ["train"])["event_count"].tolist()


def test_a_folder_of_a_day_in_the_future_does_not_hide_the_newest_days_quarantine():
    account = pd.DataFrame(
        {
            "source": "web",
            "arrived_on": pd.to_datetime(["2026-01-01", "2026-01-02", "2036-01-02"]),
            "quarantined_count": [0, 300, 0],
            "line_count": [1000, 1000, 2],
            "blank_count": 0,
        }
    )

    arrivals = inputs._arrivals(SimpleNamespace(relation=lambda _: duckdb.from_df(account)))

    assert arrivals["day"].tolist() == [-1, 0]
    assert "quarantine/all/records" in alarms(facts(arrivals=arrivals))


def test_every_tenant_has_an_entry_and_a_small_one_says_too_few():
    live = sessions(DAYS, 1)
    live.loc[live["tenant_id"] == "bolt", "amount"] += 0.7
    live.loc[live.index[:30], "tenant_id"] = "tiny"

    _, _, tenants = judge(facts(live), LIMITS)

    assert sorted(tenants) == ["acme", "bolt", "tiny"]
    assert tenants["acme"]["quality"]["state"] == "as expected"
    assert tenants["acme"]["attention"] == []
    assert (tenants["bolt"]["drift"]["state"], tenants["bolt"]["drift"]["worst"]) == (
        "alarm",
        "amount",
    )
    assert len(tenants["bolt"]["attention"]) == 1
    assert tenants["tiny"]["quality"]["value"] is tenants["tiny"]["drift"]["psi"] is None
    assert {tenants["tiny"][name]["state"] for name in ("quality", "drift", "volume")} == {
        "too few"
    }


def test_tenants_with_few_outcomes_are_judged_together():
    def split(rows: pd.DataFrame) -> pd.DataFrame:
        small = [f"small-{place % 40:02}" for place in range(len(rows))]
        return rows.assign(tenant_id=np.where(rows["tenant_id"] == "bolt", small, "acme"))

    usual = facts()
    live = split(usual.answers)
    often = np.random.default_rng(0).random(len(live)) < 0.25
    is_small = live["tenant_id"] != "acme"
    more = live.assign(label=np.where(is_small & often, 1.0, live["label"]))
    frames = {name: split(getattr(usual, name)) for name in ("reference", "live", "holdout")}

    calm, alarmed = (alarms(replace(usual, **frames, answers=rows)) for rows in (live, more))

    assert not calm
    assert "quality/tenants with few outcomes/rate of outcomes" in alarmed
    assert not any(key.startswith("quality/small") for key in alarmed)


def test_a_small_tenant_with_a_lasting_problem_does_not_retrain_the_shared_model():
    reference, live = sessions(list(range(-22, -2)), 0, 5000), sessions(DAYS, 1, 5000)
    rng = np.random.default_rng(2)
    for rows in (reference, live):
        rows.loc[rng.random(len(rows)) < 0.04, "tenant_id"] = "tiny"
    live.loc[live["tenant_id"] == "tiny", "amount"] += 2
    columns = ["tenant_id", "day", "amount", "channel"]
    given = facts(live, reference=reference[columns])

    assert "drift/tiny/amount" in alarms(given)
    assert judge(given, LIMITS)[1]["status"] == "not needed"


def test_a_tenant_that_stopped_is_named():
    usual = facts()
    gone = usual.volumes[(usual.volumes["tenant_id"] == "acme") | (usual.volumes["day"] < 0)]

    assert (
        "No session in the newest"
        in alarms(replace(usual, volumes=gone))["volume/bolt/sessions"].sentence
    )


def test_a_tenant_that_had_an_empty_day_stopped_when_it_is_empty_for_longer_and_the_smallest_is_watched_too():
    usual, names = facts(), [f"small-{place}" for place in range(25)]
    few = pd.DataFrame(
        {"tenant_id": names * 20, "day": np.repeat(range(-22, -2), 25), "session_count": 10}
    )
    closes = few[(few["tenant_id"] == "small-0") & (few["day"] != -10)]
    yesterday, before = (closes.head(1).assign(day=day) for day in (-1, -2))
    volumes = [usual.volumes, few[few["tenant_id"] != "small-0"], closes, before]
    reference = pd.concat([usual.reference, few[["tenant_id", "day"]]])

    def stopped(*more: pd.DataFrame) -> set[str]:
        return set(
            alarms(replace(usual, reference=reference, volumes=pd.concat([*volumes, *more])))
        )

    assert {f"volume/{name}/sessions" for name in names} <= stopped()
    assert "volume/small-0/sessions" not in stopped(yesterday)


def test_one_of_two_tenants_must_be_twice_as_surely_worse_as_all_together():
    p = np.array([0.04, 0.04, 0.9])

    assert correct(p, [ALL, "acme", "bolt"]).tolist() == [0.04, 0.08, 0.9]


def test_without_a_session_since_training_nothing_can_be_said_yet():
    checks, decision, _ = judge(
        facts(sessions(DAYS, 1).iloc[:0], latency=pd.DataFrame(columns=["day", "p99_ms"])), LIMITS
    )

    assert {
        check.state for check in checks if check.name in ("quality", "drift", "volume", "latency")
    } == {UNKNOWN}
    assert decision["retrain"] is False


def test_training_waits_until_drift_has_held_and_the_last_one_is_past_and_never_learns_a_fault():
    moved = sessions(DAYS, 1).assign(amount=lambda rows: rows["amount"] + 1)
    sudden = moved.assign(
        amount=lambda rows: np.where(rows["day"] == 0, rows["amount"], rows["amount"] - 1)
    )

    decide = lambda live, **others: judge(facts(live, **others), LIMITS)[1]  # noqa: E731 (one line says it)

    assert decide(moved) == {
        "retrain": True,
        "status": "train again",
        "reason": "For 2 days: drift of amount.",
    }
    assert decide(sudden)["retrain"] is False
    assert "7 must pass" in decide(moved, days_since_training=3.0)["reason"]
    assert decide(moved, days_since_training=3.0)["status"] == "wait"
    assert decide(moved.assign(channel=None))["reason"].startswith("Fix channel first")
    assert decide(moved.assign(channel=None))["status"] == "fix the data first"


def test_an_alarm_counts_the_days_on_which_it_was_in_the_data():
    moved = lambda days: sessions(DAYS, 1).assign(  # noqa: E731
        amount=lambda rows: rows["amount"] + (rows["day"] > -days)
    )

    assert [3, 2] == [alarms(facts(moved(days)))["drift/all/amount"].alarm_days for days in (3, 2)]
    assert {0} == {check.alarm_days for check in judge(facts(), LIMITS)[0]}


@pytest.mark.parametrize(
    ("hours", "state", "words"),
    [
        (-716, UNKNOWN, "716 hours after the time of this check"),
        (40, ALARM, "40 hours ago.$"),
        (15_135, ALARM, "15,135 hours ago.* `make monitor AS_OF=2026-01-31T23:00`"),
    ],
)
def test_freshness_is_not_judged_before_the_data_and_names_as_of_for_an_old_export(
    hours, state, words
):
    given = facts(age_hours=hours, last_arrival="2026-01-31T23:00")
    (check,) = (check for check in judge(given, LIMITS)[0] if check.name == "freshness")

    assert check.state == state
    assert re.search(words, check.sentence)


def test_an_incident_is_sent_when_it_begins_and_when_it_ends(tmp_path):
    store, messages = Store(tmp_path), []
    hooks = {"hook": lambda text: messages.append(json.loads(text))}
    send = lambda alarms: alerts.send_alerts(store, alarms, "page", hooks)  # noqa: E731

    for alarms in ({"a": "A moved."}, {"a": "A moved."}, {"b": "B moved."}, {}, {}):
        send(alarms)

    assert [(one["opened"], one["ended"]) for one in messages] == [
        (["A moved."], []),
        (["B moved."], ["A moved."]),
        ([], ["B moved."]),
    ]


def channel_lost(tenants: int) -> dict[str, str]:
    keys = [f"broken/shop_{place:02}/channel" for place in range(tenants)]
    return dict.fromkeys(keys, "channel: has only one value.")


def test_many_tenants_with_the_same_incident_are_one_sentence_with_its_first_day(tmp_path):
    messages, keys = [], channel_lost(12)
    days = dict.fromkeys(keys, "2026-06-02 23:00:00") | {min(keys): "2026-06-01 23:00:00"}
    hooks = {"hook": lambda text: messages.append(json.loads(text))}

    sent = alerts.send_alerts(Store(tmp_path), keys, "page", hooks, days=days)

    (sentence,) = messages[0]["opened"]
    assert sentence.startswith("12 tenants lost channel since Monday, 1 June: shop_00, shop_01,")
    assert sentence.endswith("and 7 more.")
    assert len(sent["opened"]) == 12


def test_a_group_that_grows_is_sent_again_when_it_has_doubled_and_its_end_once(tmp_path):
    store, messages = Store(tmp_path), []
    hooks = {"hook": lambda text: messages.append(json.loads(text))}

    for tenants in (12, 13, 20, 24, 25, 24, 0, 0):
        alerts.send_alerts(store, channel_lost(tenants), "page", hooks)

    words = [
        [sentence.split(":")[0] for sentence in message[name]]
        for message in messages
        for name in ("opened", "ended")
    ]
    assert words == [
        ["12 tenants lost channel"],
        [],
        ["12 tenants lost channel"],
        [],
        [],
        ["24 tenants lost channel"],
    ]


def test_one_subject_of_several_tenants_is_one_incident_of_the_report():
    checks = [
        {"key": key, "name": "broken", "tenant": key.split("/")[1], "state": ALARM}
        | {"subject": "channel", "sentence": sentence, "since": "2026-06-01 23:00:00"}
        for key, sentence in channel_lost(3).items()
    ]

    alone, together = (incidents.open_groups(some) for some in (checks[:2], checks))

    assert [one["title"] for one in alone] == ["broken of shop_00", "broken of shop_01"]
    assert [one["title"] for one in together] == ["drift in 3 tenants"]
    assert together[0]["since"] == "2026-06-01 23:00:00"


def test_each_kind_of_incident_says_what_to_do_next(tmp_path):
    check = {"tenant": "all", "subject": "channel", "state": ALARM, "sentence": "It moved."}
    checks = [check | {"name": name, "key": f"{name}/all/channel"} for name in incidents.NEXT]
    decision, alerts_ = {"status": "not needed", "reason": ""}, {"failed": "", "opened": []}
    about = {"session_count": 0}
    about |= {"checks": checks, "incidents": incidents.open_groups(checks), "retraining": decision}

    printed = monitor_report.format_summary(
        Store(tmp_path), about | {"alerts": alerts_ | {"ended": []}}, 1.0
    )

    for next_step in incidents.NEXT.values():
        assert f"next: {next_step}" in " ".join(printed.split())


def test_a_feature_that_some_tenants_lost_and_that_drifted_in_others_is_one_group():
    keys = channel_lost(3) | {"drift/tiny/channel": "channel: stability index 0.4."}

    (sentence,) = incidents.describe(keys)

    assert sentence.startswith("4 tenants lost channel or have drift of it: shop_00, ")


def test_a_hook_that_fails_is_tried_again_then_reported_and_hears_of_it_the_next_time(tmp_path):
    store, tries, heard = Store(tmp_path / "store"), tmp_path / "tries", tmp_path / "heard"
    script = "import sys; print(sys.stdin.read(), file=open(sys.argv[1], 'a')); sys.exit(int(sys.argv[2]))"
    hook = lambda file, code: alerts.hooks_of(f'{sys.executable} -c "{script}" {file} {code}', "")  # noqa: E731

    failed = alerts.send_alerts(store, {"a": "A moved."}, "page", hook(tries, 3), wait_seconds=0)[
        "failed"
    ]
    again = alerts.send_alerts(store, {"a": "A moved."}, "page", hook(heard, 0), wait_seconds=0)[
        "failed"
    ]

    assert "exit code 3" in failed
    assert again is None
    assert len(tries.read_text().splitlines()) == alerts.TRIES
    assert json.loads(heard.read_text())["opened"] == ["A moved."]


def test_a_command_that_hangs_ends_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(alerts, "TIMEOUT_SECONDS", 1)
    os.mkfifo(held := tmp_path / "held")
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    hooks = alerts.hooks_of(f"sh -c 'sleep 60 >{held} & echo begun >{held}; wait'", "")

    failed = alerts.send_alerts(Store(tmp_path), {"a": "A moved."}, "page", hooks, wait_seconds=0)[
        "failed"
    ]

    assert "command: it did not end within 1 s" in failed
    assert os.read(reader, 100) == b"begun\n" * alerts.TRIES
    assert (
        select([reader], [], [], 5)[0] and os.read(reader, 1) == b""
    )  # nobody holds the other end


def test_a_hook_gets_an_incident_once_even_if_another_fails_and_an_invalid_address_stays_secret(
    tmp_path,
):
    store, heard = Store(tmp_path), []
    hooks = alerts.hooks_of("nowhere/to-be-found", "http://127.0.0.1:1/a secret")
    hooks["healthy"] = lambda text: heard.append(json.loads(text))

    failed = alerts.send_alerts(store, {"a": "A moved."}, "page", hooks, wait_seconds=0)["failed"]
    both = {"a": "A moved.", "b": "B moved."}
    alerts.send_alerts(store, both, "page", hooks, wait_seconds=0)
    alerts.send_alerts(store, {}, "page", hooks, wait_seconds=0)

    assert [(one["opened"], one["ended"]) for one in heard] == [
        (["A moved."], []),
        (["B moved."], []),
        ([], ["A moved.", "B moved."]),
    ]
    assert (
        "command: No such file" in failed
        and "webhook: InvalidURL" in failed
        and "secret" not in failed
    )


@pytest.mark.parametrize(("refusals", "reported"), [(1, None), (9, "Internal Server Error")])
def test_a_webhook_is_posted_to_until_it_takes_the_alert_and_its_address_stays_secret(
    tmp_path, refusals, reported
):
    heard = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(heard) <= refusals else 200)
            self.end_headers()

        log_message = lambda *_: None  # noqa: E731

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever).start()
        hooks = alerts.hooks_of("", f"http://127.0.0.1:{server.server_port}/secret")
        failed = alerts.send_alerts(
            Store(tmp_path), {"a": "A moved."}, "page", hooks, wait_seconds=0
        )["failed"]
        server.shutdown()

    assert heard == [
        {"text": "A moved.", "opened": ["A moved."], "ended": [], "page": "page"}
    ] * len(heard)
    assert len(heard) == min(refusals + 1, alerts.TRIES)
    assert failed == reported or (reported in failed and "secret" not in failed)


@pytest.mark.parametrize(
    "text",
    [
        "{broken",
        "[]",
        "null",
        '{"x": "str"}',
        '{"x": {}}',
        '{"x": {"since": "", "sentence": "", "sent_to": [1]}}',
    ],
)
def test_a_history_of_alerts_that_is_none_is_refused_with_the_way_out(tmp_path, text):
    store = Store(tmp_path)
    store.monitor.mkdir()
    (store.monitor / "alerts.json").write_text(text)

    with pytest.raises(UserError, match=r"monitor/alerts.json is not readable.*(?i:delete it)"):
        alerts.send_alerts(store, {"a": "A moved."}, "page", {})


def test_two_monitors_at_once_send_an_incident_once(tmp_path):
    opened_by_message = []
    hooks = {
        "slow": lambda text: (time.sleep(0.3), opened_by_message.append(json.loads(text)["opened"]))
    }
    say = lambda _: alerts.send_alerts(Store(tmp_path), {"a": "A moved."}, "page", hooks)["opened"]  # noqa: E731

    with ThreadPoolExecutor(2) as pool:
        opened = sorted(pool.map(say, range(2)))

    assert opened_by_message == [["A moved."]]
    assert opened == [[], ["a"]]


def test_a_monitor_that_waits_for_long_says_who_is_sending(tmp_path, monkeypatch):
    monkeypatch.setattr(alerts, "LOCK_SECONDS", 0.2)
    send = lambda **hooks: alerts.send_alerts(Store(tmp_path), {"a": "A moved."}, "page", hooks)  # noqa: E731

    with pytest.raises(
        UserError, match=rf"Another monitor \(process {os.getpid()}, since 20.*\) is sending.*again"
    ):
        send(hook=lambda _: send())


def test_a_webhook_that_drips_its_answer_is_given_up_in_time_three_times_and_reported(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(alerts, "TIMEOUT_SECONDS", 0.3)
    heard = []

    class Dripping(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(self.path)
            with suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"H")
                    time.sleep(0.1)

        log_message = lambda *_: None  # noqa: E731

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        threading.Thread(target=server.serve_forever).start()
        hooks, began = (
            alerts.hooks_of("", f"http://127.0.0.1:{server.server_port}/"),
            time.monotonic(),
        )
        failed = alerts.send_alerts(
            Store(tmp_path), {"a": "A moved."}, "page", hooks, wait_seconds=0
        )["failed"]
        seconds = time.monotonic() - began
        server.shutdown()

    assert "webhook: it did not end within 0.3 s" in failed
    assert len(heard) == alerts.TRIES and seconds < 5


def test_a_time_that_is_none_is_refused_with_an_example(tmp_path):
    response = run(Store(tmp_path), "flows/monitor.py", "run", "--as-of", "yesterday")

    assert response.returncode == 1
    assert "AS_OF is a time such as 2026-02-01T18:00:00+02:00, not 'yesterday'." in response.stderr


def test_freshness_goes_by_when_events_came_in_whatever_zone_it_is_asked_in(built):
    events = snapshot.open_latest(built).relation("events").filter("session_id is not null")
    (came,) = events.aggregate("max(received_at)").fetchone()
    there = (came + timedelta(hours=5)).replace(tzinfo=timezone(timedelta(hours=2)))

    assert inputs.gather(built, there)[0].age_hours == 3


@pytest.mark.parametrize(
    ("matches", "latency_ms"), [(None, ""), (False, "null"), (True, "null"), (True, "8.0")]
)
def test_the_first_answer_is_reported_by_monitor_and_experiment_with_or_without_its_session(
    copied, matches, latency_ms
):
    version = champion.current(copied)[1]
    if matches is not None:
        publish_answer(copied, matches, latency_ms, version)
    write_experiment(copied, version)

    log = inputs.predictions(snapshot.open_latest(copied))
    gathered, about = inputs.gather(copied, datetime.now(UTC))
    checks, decision, _ = judge(gathered, LIMITS)
    rows = [asdict(check) | {"key": check.key} for check in checks]
    sent = alerts.send_alerts(copied, incidents.incidents(rows), "page", {})
    report = monitor_report.write_report(copied, about, rows, decision, sent)
    page = monitor_report.write_page(copied, report, "Monitor")
    readout = experiment.readout(copied, project_settings())

    assert log["person_id"].notna().tolist() == ([] if matches is None else [matches])
    assert sum(calls["count"] for calls in about["calls"]) == len(log)
    assert "<h1>" in page and json.dumps(report, allow_nan=False)
    assert [arm["visitors"] for arm in readout["variants"]] == [int(bool(matches)), 0]


def publish_answer(store: Store, matches: bool, latency_ms: str, version: str) -> None:
    """One answer in the newest snapshot's log, for a session of the snapshot or for another."""
    newest = snapshot.open_latest(store)
    path = store.tables / "fct_predictions" / "one.parquet"
    path.parent.mkdir(exist_ok=True)
    values = {
        **{name: f"null::{kind}" for name, kind in newest.columns("fct_predictions").items()},
        "tenant_id": "tenant_id",
        "request_id": "'r1'",
        "answered_at": "point_at + interval 1 second",
        "entity_id": "entity_id",
        "anonymous_id": "'a1'",
        "event_count": "3::bigint",
        "point_at": "point_at",
        "probability": "0.2::double",
        "model_version": f"'{version}'",
        "variant": "'champion'",
        "latency_ms": f"{latency_ms}::double",
        "session_id": "entity_id" if matches else "null::varchar",
        "had_outcome": "false",
    }
    columns = ", ".join(f"{value} as {name}" for name, value in values.items())
    row = newest.relation("session_features").filter("status = 'train'")
    row.order("point_at desc").limit(1).project(columns).to_parquet(str(path))
    manifest = newest.manifest
    manifest["tables"]["fct_predictions"] |= {"files": [{"file": "one.parquet"}], "rows": 1}
    write_json(store.snapshots / newest.id / "manifest.json", manifest)


def write_experiment(store: Store, version: str) -> None:
    who = {"owner": "shared", "version": "v2", "champion": version, "run": "r"}
    write_json(
        store.experiment,
        who | {"salt": "s", "share": 0.5, "since": "2025-01-01T00:00:00+00:00"},
    )


def test_a_champion_whose_snapshot_was_erased_is_refused_with_the_way_out(copied):
    shutil.rmtree(copied.snapshots / snapshot.open_latest(copied).id)
    write_json(copied.snapshots / "other" / "manifest.json", {"tables": {}})
    write_json(copied.latest_snapshot, {"snapshot": "other"})

    with pytest.raises(
        UserError, match=r"learned from, does not exist any more.*`make train deploy`"
    ):
        inputs.gather(copied, datetime.now(UTC))


def test_a_tenant_with_a_champion_of_its_own_is_judged_by_that_ones_answers_and_its_holdout(
    copied, monkeypatch
):
    run, (owner, version) = runs.open("", copied), champion.current(copied)
    predicted = run.predictions().merge(snapshot.open_latest(copied).frame("session_features"))
    own = promote_baseline(
        run, open_bundle(copied.bundle(owner, version)), tenant := predicted["tenant_id"].min()
    )
    log = predicted.assign(
        **{
            "answered_at": predicted["point_at"],
            "outcome": predicted["label"],
            "had_outcome": False,
            "status": "train",
            "latency_ms": 8.0,
        },
        model_version=np.where(predicted["tenant_id"] == tenant, own, version),
        probability=predicted["baseline"].where(
            predicted["tenant_id"] == tenant, predicted[run.chosen]
        ),
    )
    early = log.assign(model_version=version, probability=0.5).query("tenant_id == @tenant")
    monkeypatch.setattr(inputs, "predictions", lambda _: pd.concat([early, log]))

    gathered, about = inputs.gather(copied, datetime.now(UTC))

    probability = lambda rows: rows[rows["tenant_id"] == tenant]["probability"].tolist()  # noqa: E731
    assert about["own"] == {tenant: own} and gathered.owners == [tenant]
    assert probability(gathered.answers) == probability(log) and len(gathered.answers) == len(log)
    assert set(probability(gathered.holdout)) <= set(predicted["baseline"])
    assert set(probability(gathered.holdout)) <= set(
        gathered.reference_scores.query("tenant_id == @tenant")["score"]
    )
    assert set(gathered.holdout.query("tenant_id != @tenant")["probability"]) <= set(
        predicted[run.chosen]
    )


def test_the_holdout_of_a_tenants_own_model_is_that_of_its_own_predictions(copied):
    run = runs.open("", copied)
    predicted = run.predictions()
    tenant = predicted["tenant_id"].min()
    promote_baseline(run, open_bundle(copied.bundle(*champion.current(copied))), tenant)
    own = predicted[predicted["tenant_id"] == tenant].assign(probability=0.125)
    columns = ["tenant_id", "entity_id", "point_at", "label", "probability"]
    duckdb.from_df(own[columns]).to_parquet(str(run.folder / "tenants.parquet"))
    shutil.rmtree(run.own_model(tenant), ignore_errors=True)
    shutil.copytree(run.model("baseline"), run.own_model(tenant))

    holdout = inputs.gather(copied, datetime.now(UTC))[0].holdout

    is_own = holdout["tenant_id"] == tenant
    assert set(holdout[is_own]["probability"]) == {0.125}
    assert 0.125 not in set(holdout[~is_own]["probability"])


def test_a_tenants_champion_whose_snapshot_is_gone_is_named_and_the_others_are_judged(copied):
    promote_baseline(
        runs.open("", copied),
        open_bundle(copied.bundle(*champion.current(copied))),
        "acme",
        snapshot="gone",
    )

    gathered, about = inputs.gather(copied, datetime.now(UTC))

    assert about["own"] == {} and gathered.owners == []
    assert "exist any more" in about["unjudged"]["acme"]
    assert "then the shared model answers acme" in about["unjudged"]["acme"]


def promote_baseline(run, bundle, tenant: str, **others) -> str:
    """Make the run's baseline the tenant's own champion; its version."""
    manifest = {
        name: bundle.manifest[name] for name in ("threshold", "run", "snapshot", "code", "metrics")
    } | others
    texts = {name: getattr(bundle, name) for name in ("feature_sql", "schema", "lookups", "sample")}
    version = assemble(
        Parts("baseline", run.model("baseline"), card="", **texts, **manifest), run.store, tenant
    ).version
    champion.promote(run.store, tenant, version, run=run.id, by="test", why="a test")
    return version


def test_a_worse_champion_of_a_tenant_raises_alarms_but_does_not_retrain_the_shared_model():
    live = sessions(DAYS, 1)
    rng, bolt = np.random.default_rng(0), live["tenant_id"] == "bolt"
    live.loc[bolt, "label"] = rng.permutation(live.loc[bolt, "label"])
    live.loc[bolt, "score"] = live.loc[bolt, "score"] ** 1.5
    decide = lambda **others: judge(facts(live, **others), LIMITS | {"alpha": 0.05})  # noqa: E731

    checks, decision, _ = decide(owners=["bolt"])

    assert decide()[1]["retrain"] is True
    assert {"quality/bolt/average precision", "drift/bolt/score"} == {
        one.key for one in checks if one.state == ALARM
    }
    assert decision["retrain"] is False


def test_a_day_of_batches_alone_has_no_latency():
    answered = pd.to_datetime(["2026-01-01 10:00", "2026-01-02 10:00", "2026-01-02 11:00"])
    log = pd.DataFrame({"answered_at": answered, "latency_ms": [8.0, None, None]})

    latency = inputs._latency(log)

    assert latency.to_dict("list") == {"day": [0], "p99_ms": [8.0]}


def test_the_flow_says_so_where_nothing_is_newer_than_training(result, built):
    assert result["monitor"].returncode == 0, result["monitor"].stderr
    assert "cannot say yet" in result["monitor"].stdout
    assert "no full day of sessions since training" in (built.monitor / "report.html").read_text()
    assert read_json(built.monitor / "latest.json")["day_starts"] == []
