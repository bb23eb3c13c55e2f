"""An experiment is read by person and first assignment, may be looked at daily, and says when it is spoiled."""

import json
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pytest
from whole_path import run

from jollyboat.champions import champion, policy
from jollyboat.cli.main import jollyboat
from jollyboat.experiments.readout import read, sequence
from jollyboat.gate.gate import Facts
from jollyboat.serving import deployment, deployment_checks, experiment
from jollyboat.store import Store, UserError, project_settings, read_json, write_json
from jollyboat.store.settings import Targets

PROJECT_SETTINGS = project_settings()
SETTINGS = PROJECT_SETTINGS.experiment.model_dump()
EXPERIMENT = {"salt": "s", "share": 0.5, "owner": "shared", "version": "v2", "champion": "v1"}
EXPERIMENT |= {"since": "2026-01-01T00:00:00+00:00"}
NO_EXPERIMENT = {
    "half a file": "{broken",
    "a text": '"str"',
    "a list": "[]",
    "null": "null",
    **{
        f"no {name}": json.dumps({key: value for key, value in EXPERIMENT.items() if key != name})
        for name in EXPERIMENT
    },
    **{
        f"share {share}": json.dumps(EXPERIMENT | {"share": share})
        for share in ("0.5", 40, 1.5, 1, 0, -0.5, True, None)
    },
    "share 1e400": json.dumps(EXPERIMENT).replace("0.5", "1e400"),
    "share NaN": json.dumps(EXPERIMENT).replace("0.5", "NaN"),
    "since": json.dumps(EXPERIMENT | {"since": "x"}),
}


def log(
    champion_rate: float, challenger_rate: float, visitors: int = 8000, seed: int = 0
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    variant = rng.choice(["champion", "challenger"], visitors)
    rate = np.where(variant == "champion", champion_rate, challenger_rate)
    return pd.DataFrame(
        {
            "person_id": [f"p{place}" for place in range(visitors)],
            "session_id": [f"s{place}" for place in range(visitors)],
            "answered_at": pd.Timestamp("2026-01-01")
            + pd.to_timedelta(np.arange(visitors), unit="min"),
            "variant": variant,
            "outcome": (rng.random(visitors) < rate).astype(object),
            "latency_ms": rng.gamma(4, 1, visitors),
            "probability": rng.random(visitors),
        }
    )


@pytest.mark.parametrize(
    ("rates", "verdict"), [((0.08, 0.14), "better"), ((0.14, 0.08), "worse"), ((0.1, 0.1), "open")]
)
def test_a_difference_is_called_where_there_is_one_and_not_where_there_is_none(rates, verdict):
    readout = read(log(*rates), 0.5, SETTINGS)

    assert verdict == readout["verdict"]
    assert readout["days"][-1]["low"] < rates[1] - rates[0] < readout["days"][-1]["high"]


@pytest.mark.parametrize(("rates", "verdict"), [((0.08, 0.14), "worse"), ((0.14, 0.08), "better")])
def test_less_of_an_outcome_that_nobody_wants_is_better(rates, verdict):
    assert verdict == read(log(*rates), 0.5, SETTINGS, is_wanted=False)["verdict"]


def test_the_expected_days_to_an_answer_are_about_those_it_takes():
    rates = (0.10, 0.12)
    early = read(log(*rates, visitors=6000), 0.5, SETTINGS)
    assert early["verdict"] == "open"

    after = int(6000 + 1440 * 1.5 * early["days_left"])
    assert read(log(*rates, visitors=after), 0.5, SETTINGS)["verdict"] == "better"


def test_a_readout_has_the_rates_of_both_variants_by_day_and_the_difference_in_each_tenant():
    rows = log(0.08, 0.14).assign(
        tenant_id=lambda frame: ["acme", "acme", "bolt"] * 2666 + ["acme"] * 2
    )

    readout = read(rows, 0.5, SETTINGS)

    last, rates = readout["days"][-1], {one["variant"]: one["rate"] for one in readout["variants"]}
    assert {name: last[name] for name in rates} == rates
    acme, bolt = readout["tenants"]
    assert (acme["tenant"], bolt["tenant"]) == ("acme", "bolt")
    assert acme["visitors"] + bolt["visitors"] == len(rows)
    assert bolt["high"] - bolt["low"] > acme["high"] - acme["low"] > last["high"] - last["low"]


def test_the_interval_of_a_few_visitors_ends_where_a_difference_of_rates_does():
    (day,) = read(log(0.2, 0.4, visitors=24), 0.5, SETTINGS)["days"][-1:]

    assert (day["low"], day["high"]) == (-1, 1)


def test_the_interval_is_wider_than_that_of_one_look_and_narrows_with_visitors():
    n = np.array([[1000, 10_000], [1000, 10_000]])

    _, half = sequence(n, n * 0.1, 0.05, 5_000)

    at_one_look = 1.96 * np.sqrt(2 * 0.09 / n[0])
    assert (half > at_one_look).all()
    assert half[1] < half[0]


def test_a_person_counts_once_with_the_variant_and_outcome_met_first_and_waiting_is_no_failure():
    rows = log(0.1, 0.1).assign(outcome=False)
    other = np.where(rows["variant"] == "champion", "challenger", "champion")
    later = rows.assign(
        variant=other, outcome=True, answered_at=rows["answered_at"] + pd.Timedelta(days=30)
    )
    waiting = rows.iloc[:10].assign(person_id=[f"w{place}" for place in range(10)], outcome=None)

    readout = read(pd.concat([later, rows, waiting]), 0.5, SETTINGS)

    assert [one["outcomes"] for one in readout["variants"]] == [0, 0]
    assert sum(one["observed"] for one in readout["variants"]) == len(rows)
    assert (len(rows), 10) == (readout["crossed"], readout["waiting"])


def test_a_split_that_is_no_chance_spoils_it_and_a_slow_or_failing_challenger_is_reported():
    rows = log(0.08, 0.14)
    lost = rows[(rows["variant"] == "champion") | (np.arange(len(rows)) % 10 > 0)]
    slow = rows.assign(latency_ms=rows["latency_ms"] + 100 * (rows["variant"] == "challenger"))

    fails = rows["probability"].mask(
        (rows["variant"] == "challenger") & (np.arange(len(rows)) % 50 == 0)
    )

    assert read(lost, 0.5, SETTINGS)["verdict"] == "spoiled"
    assert read(rows.assign(probability=fails), 0.5, SETTINGS)["verdict"] == "failing"
    assert read(slow, 0.5, SETTINGS)["verdict"] == "slower"


def test_an_answer_that_came_too_early_is_no_failure():
    rows = log(0.1, 0.1, 100)
    none = rows["probability"].mask(rows["variant"] == "challenger")

    failed, early = (
        read(rows.assign(probability=none, answer_status=status), 0.5, SETTINGS)
        for status in ("failed", "too_early")
    )

    assert (failed["is_failing"], early["is_failing"]) == (True, False)


def test_one_visitor_one_failure_or_one_slow_answer_in_each_arm_decides_nothing():
    two, hundred = log(0.0, 1.0, 40).groupby("variant").head(1), log(0.1, 0.1, 100)
    one = hundred.index == hundred.index[hundred["variant"] == "challenger"][0]
    fails = hundred.assign(probability=hundred["probability"].mask(one))
    slow = hundred.assign(latency_ms=hundred["latency_ms"].mask(one, 80))

    assert [read(rows, 0.5, SETTINGS)["verdict"] for rows in (two, fails, slow)] == ["open"] * 3


def test_without_an_answer_nothing_is_concluded():
    readout = read(log(0.1, 0.1).iloc[:0], 0.5, SETTINGS)

    assert (readout["verdict"], readout["t_test_p"], readout["days"]) == ("open", None, [])


def test_there_is_one_experiment_at_a_time_and_none_without_a_champion(tmp_path):
    store = Store(tmp_path)

    with pytest.raises(UserError, match="make deploy"):
        experiment.start(store, "", 0.5, PROJECT_SETTINGS)
    with pytest.raises(UserError, match="between 0 and 1"):
        experiment.start(store, "", 1.0, PROJECT_SETTINGS)
    with pytest.raises(UserError, match="jollyboat experiment start"):
        experiment.stop(store)
    write_json(store.experiment, EXPERIMENT)
    with pytest.raises(UserError, match="v2 is the challenger already"):
        experiment.start(store, "", 0.5, PROJECT_SETTINGS)


@pytest.mark.parametrize("text", NO_EXPERIMENT.values(), ids=NO_EXPERIMENT.keys())
def test_a_file_that_holds_no_experiment_is_refused_in_a_sentence_that_names_it(
    tmp_path, monkeypatch, text
):
    monkeypatch.setenv("STORE_ROOT", str(tmp_path))
    file = Store(tmp_path).experiment
    file.parent.mkdir()
    file.write_text(text)

    for verb in ("read", "start", "promote"):
        with pytest.raises(UserError) as refused:
            jollyboat(["experiment", verb], standalone_mode=False)
        sentence = str(refused.value)
        assert sentence.startswith(f"{file} is no valid experiment: ") and "\n" not in sentence
        assert sentence.endswith("Correct it, or end it with `jollyboat experiment stop`.")


@pytest.mark.parametrize("text", NO_EXPERIMENT.values(), ids=NO_EXPERIMENT.keys())
def test_a_file_that_holds_no_experiment_is_ended_as_one_is(tmp_path, text):
    store = Store(tmp_path)
    store.experiment.parent.mkdir()
    store.experiment.write_text(text)

    message = experiment.stop(store)

    assert (
        message
        == f"{store.experiment} held no experiment and was deleted; the champion serves all."
    )
    with pytest.raises(UserError, match="There is no experiment"):
        experiment.stop(store)


def test_who_answers_after_an_experiment_is_the_champion_of_then(tmp_path):
    store = Store(tmp_path)
    write_json(store.experiment, EXPERIMENT)
    write_json(store.champion("shared"), {"version": "v3"})

    message = experiment.stop(store)
    write_json(store.experiment, EXPERIMENT)
    store.champion("shared").write_text("{broken")
    without = experiment.stop(store)

    assert message == "v2 is no longer the challenger. Champion v3 serves all visitors."
    assert without.startswith(
        f"v2 is no longer the challenger. {store.champion('shared')} is not readable JSON"
    )
    assert not store.experiment.exists()


def test_visitors_are_those_who_were_drawn_each_of_a_tenant_and_a_new_champion_ends_the_comparison(
    tmp_path, monkeypatch
):
    store = Store(tmp_path)
    answers = (
        log(0.1, 0.1, 6)
        .drop(columns="person_id")
        .assign(model_version="v1", anonymous_id=[*"aaabc", None])
    )
    answers["tenant_id"] = ["acme", "globex", *["acme"] * 4]
    sessions = answers[["tenant_id", "session_id"]].assign(
        status="train", person_id=[*"pppqr", "nobody"]
    )
    for name, rows in {"fct_predictions": answers, "sessions": sessions}.items():
        duckdb.from_df(rows).to_parquet(str(tmp_path / f"{name}.parquet"))
    newest = SimpleNamespace(
        store=store,
        manifest={"tables": {"fct_predictions": {}}},
        columns=lambda _: ["person_id"],
        scan=lambda table: f"'{tmp_path}/{table}.parquet'",
    )
    monkeypatch.setattr(experiment.snapshot, "open_latest", lambda _: newest)
    write_json(store.experiment, EXPERIMENT)

    write_json(store.champion("shared"), {"version": "v1"})
    readout = experiment.readout(store, PROJECT_SETTINGS)
    write_json(store.champion("globex"), {"version": "g1"})
    policy.pause(store, "globex", by="ada", why="their sale")
    paused = experiment.readout(store, PROJECT_SETTINGS)
    write_json(store.champion("shared"), {"version": "v3"})

    assert sum(one["visitors"] for one in readout["variants"]) == 4
    assert sum(one["visitors"] for one in paused["variants"]) == 3
    with pytest.raises(
        UserError, match=r"champion is now v3, .* v2 with v1: `jollyboat experiment stop`"
    ):
        experiment.readout(store, PROJECT_SETTINGS)


def test_a_challenger_that_misses_a_target_that_gates_serves_no_visitor(copied, monkeypatch):
    write_json(copied.champion("shared"), {"version": "v0", "history": []})
    facts = Facts(candidate="xgboost", champion="v0"), {}
    monkeypatch.setattr(deployment_checks, "gather_facts", lambda *_: facts)
    targets = PROJECT_SETTINGS.model_copy(update={"targets": Targets(recall=1.0, is_gate=True)})
    monkeypatch.setattr(
        deployment, "project_settings", lambda: SimpleNamespace(of=lambda _: targets)
    )

    with pytest.raises(UserError, match=r"Missed: recall is 0\.\d+, and should be at least 1"):
        experiment.start(copied, "", 0.5, PROJECT_SETTINGS)


def test_no_new_champion_comes_while_a_challenger_is_on_trial(copied):
    write_json(copied.experiment, {"version": "v2"})

    deployed, monitored = (
        run(copied, f"flows/{name}", "run", *more)
        for name, *more in (["deploy.py"], ["monitor.py", "--auto", "1"])
    )

    assert (
        deployed.returncode == 1
        and "`jollyboat experiment promote` or `jollyboat experiment stop`"
        in " ".join(deployed.stderr.split())
    )
    assert "Nothing is trained while an experiment runs" in monitored.stdout


def test_the_champion_itself_is_no_challenger_and_a_challenger_is_read_and_promoted(copied):
    owner, version = champion.current(copied)
    with pytest.raises(UserError, match="is the champion itself"):
        experiment.start(copied, "", 0.5, PROJECT_SETTINGS)
    about = {"salt": "s", "share": 0.5, "owner": owner, "version": version, "champion": version}
    write_json(copied.experiment, about | {"since": "2026-01-01T00:00:00+00:00"})

    readout = experiment.readout(copied, PROJECT_SETTINGS)
    message = experiment.format_summary(readout, copied)
    with pytest.raises(UserError, match="jollyboat experiment promote --force"):
        experiment.promote(copied, PROJECT_SETTINGS)
    experiment.promote(copied, PROJECT_SETTINGS, force="the shop moves tomorrow")

    (copied.bundle(owner, version) / "features.sql").unlink()
    of_a_broken_one = experiment.format_summary(readout, copied)

    assert "No outcome of both variants is known yet." in message and "not in use" not in message
    assert "challenger: not in use. The bundle at" in of_a_broken_one
    assert "run `jollyboat experiment stop`, then `jollyboat experiment start" in of_a_broken_one
    assert "features.sql" in of_a_broken_one
    assert read_json(copied.experiment) is None
    assert (
        "<h1>Is the challenger better? Not known yet</h1>"
        in (copied.reports / "experiment.html").read_text()
    )
