"""A run's figures: the holdout is scored once, nobody is named, and a diagnosis says if training was optimal."""

import json
import re
import tomllib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from ml_data import sessions, split

from jollyboat.bundles.model import reasons_of
from jollyboat.pages.page import render
from jollyboat.store import PROJECT, Store, UserError
from jollyboat.training import run as runs
from jollyboat.training import search, training
from jollyboat.training.compare import (
    Comparison,
    compare,
    format_comparison,
    format_runs,
    write_table,
)
from jollyboat.training.dependence import dependence
from jollyboat.training.diagnosis import diagnose, format_diagnosis, importance
from jollyboat.training.estimators import Model, fit
from jollyboat.training.learner import _refuse_unknown_tenants
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.thresholds import cuts

SETTINGS = tomllib.loads((PROJECT / "project.toml").read_text()) | {
    "evaluate": {"resamples": 20, "segments": ["day"]}
}
CANDIDATES = ("baseline", "logistic", "xgboost")


def train(
    folder, frame: pd.DataFrame, names=CANDIDATES, settings=SETTINGS
) -> tuple[dict, pd.DataFrame]:
    parts, schema = training.prepare(frame, settings)
    fitted = {
        name: training.fit_candidate(name, parts, schema, settings, folder / name) for name in names
    }
    return training.compare(parts, schema, fitted, settings, folder), training.holdout_predictions(
        parts, fitted
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    frame = sessions(1500).assign(
        person_id=lambda rows: "mail-of-" + (np.arange(len(rows)) % 900).astype(str)
    )
    return train(tmp_path_factory.mktemp("run"), frame)


def test_figures_are_plain_values_for_json_and_name_nobody(trained):
    metrics, predictions = trained

    text = json.dumps(metrics, allow_nan=False)

    assert metrics["persons"] == predictions["person"].nunique() == 300
    assert "mail-of-" not in text + predictions.to_csv()
    assert {"tenant_id", "entity_id", "point_at", "person", "label", *CANDIDATES} == set(
        predictions.columns
    )


def test_a_misspelt_feature_in_the_settings_is_a_warning_and_one_of_another_question_is_not():
    names = ["cart_add_count", "device", "tenant_id"]
    settings = {
        "evaluate": {"segments": ["tenant_id", "devise", "day", "days_since_signup"]},
        "baseline": {"features": ["cart_ad_count"]},
        "xgboost": {"increasing": ["cart_add_count"]},
    }

    segment, feature = training.misspelt_features(names, settings)

    assert "'devise' of segments under [evaluate]" in segment and "Did you mean device?" in segment
    assert "'cart_ad_count' of features under [baseline]" in feature


def test_a_private_tenant_that_is_nearly_another_one_is_refused():
    _refuse_unknown_tenants(["acme", "not-there-yet"], {"acme", "globex"})

    with pytest.raises(UserError, match=r"tenant 'acmee'.*Did you mean acme"):
        _refuse_unknown_tenants(["acmee"], {"acme", "globex"})


def test_the_holdout_is_scored_once_by_each_candidate(tmp_path, monkeypatch):
    scored, parts = Counter(), split(1500)
    held_out = set(parts.holdout.features["seconds_so_far"])
    predict = Model.predict_proba

    def count(model, features):
        scored["rows"] += int(features["seconds_so_far"].isin(held_out).sum())
        return predict(model, features)

    monkeypatch.setattr(Model, "predict_proba", count)
    train(tmp_path, sessions(1500), ["baseline"])

    assert scored["rows"] == len(parts.holdout)


def test_a_run_says_whether_training_was_optimal(trained):
    more, fit, luck = trained[0]["diagnosis"]["sentences"]

    assert "doubling of the rows" in more and re.search(r"\d on train, 0\.\d+ on validation", fit)
    assert re.search(r"beats the baseline at \d of 4 earlier cut-offs", luck)
    assert re.search(
        r"On the \d+ rows after these \(\d+ with the outcome, 2026-01-0\d \d\d:\d\d to 2026.*\) "
        r"it leads by [+-]0\.\d+ \([+-]0\.\d+ to [+-]0\.\d+\)\. The lead (may be|is)",
        luck,
    )


def test_a_run_without_a_judged_cut_off_does_not_count_wins():
    unknown = [{"candidate": name, "value": None} for name in ("baseline", "xgboost")]
    curve = [{"rows": 1, "average_precision": 0.3}]

    luck = format_diagnosis({"learning": curve, "backtest": unknown}, 0.3, 0.3, "xgboost")[-1]

    assert luck == "No earlier cut-off has enough outcomes to compare it with the baseline."


def test_the_backtest_trains_on_the_past_alone_and_the_curve_on_growing_parts():
    parts = split(2000)

    diagnosis = diagnose(
        "baseline", parts, FeatureSchema.from_frame(parts.train.features), SETTINGS
    )

    cut_offs = [each["until"] for each in diagnosis["backtest"]]
    assert len(cut_offs) == 4 and cut_offs == sorted(cut_offs)
    assert max(cut_offs) < parts.holdout.keys["point_at"].min().isoformat()
    assert [step["rows"] for step in diagnosis["learning"]] == [150, 300, 600, 1200]


def test_the_diagnosis_names_overfit_underfit_and_luck():
    curve = [{"rows": 1, "average_precision": 0.3}, {"rows": 2, "average_precision": 0.301}]
    won = [
        {"candidate": name, "value": value}
        for name, value in [("baseline", 0.2), ("x", 0.3), ("baseline", 0.3), ("x", 0.2)]
    ]

    more, over, luck = format_diagnosis({"learning": curve, "backtest": won}, 0.9, 0.3, "x")
    _, under, _ = format_diagnosis({"learning": curve, "backtest": won}, 0.31, 0.3, "x")

    assert (
        "hardly help" in more
        and "The model overfits:" in over
        and "underfits" in under
        and "may be luck" in luck
    )


@pytest.mark.parametrize(("low", "verdict"), [(-0.01, "may be luck"), (0.01, "is significant")])
def test_winning_every_cut_off_is_significant_only_by_its_interval(low, verdict):
    won = [{"candidate": name, "value": value} for name, value in [("baseline", 0.2), ("x", 0.3)]]
    lead = {"value": 0.1, "low": low, "high": 0.2, "rows": 40, "positives": 4}
    lead |= {"from": "2026-01-01T10:00:00", "until": "2026-01-01T10:12:00"}
    curve = [{"rows": 1, "average_precision": 0.3}]
    diagnosis = {"learning": curve, "backtest": won, "lead": lead}

    luck = format_diagnosis(diagnosis, 0.3, 0.3, "x")[-1]

    assert verdict in luck
    assert "2026-01-01 10:00 to 2026-01-01 10:12" in luck


def test_importance_is_what_a_shuffled_feature_costs():
    parts = split(3000)
    model = fit(
        "xgboost",
        parts.train,
        parts.validation,
        FeatureSchema.from_frame(parts.train.features),
        {"seed": 7},
    )

    drops = importance(model, parts.validation, 7)

    assert next(iter(drops)) == "cart_add_count"
    assert drops["always_one"] == drops["never_known_number"] == 0


def test_examples_are_explained_in_words(trained):
    best = trained[0]["candidates"][trained[0]["chosen"]]

    assert best["examples"][0]["what"] == "most certain and right"
    assert any(
        "cart add count is" in reason for each in best["examples"] for reason in each["reasons"]
    )


def test_training_twice_on_one_and_on_two_threads_gives_the_same_files_and_figures(tmp_path):
    results = []
    for threads in (1, 2):
        settings = SETTINGS | {"xgboost": {"n_jobs": threads}}
        metrics, predictions = train(tmp_path / str(threads), sessions(1200), settings=settings)
        files = {
            path.name: path.read_bytes() for path in sorted((tmp_path / str(threads)).rglob("*.*"))
        }
        results.append((json.dumps(metrics), predictions.to_csv(), files))

    assert results[0] == results[1]


def odd(kind: str) -> pd.DataFrame:
    frame = sessions(1500)
    label = frame["label"].to_numpy(copy=True)
    if kind == "one in a hundred":
        label[np.flatnonzero(label)[12:]] = False
        label[::100] = True
    if kind == "a tenant without a positive":
        label[frame["tenant_id"] == "bolt"] = False
    if kind == "a column of nulls":
        frame = frame.assign(cart_add_count=np.nan, channel=None)
    if kind == "an unseen category":
        frame.loc[1300:, "channel"] = "pigeon"
    return frame.assign(label=label)


@pytest.mark.parametrize(
    "kind",
    ["one in a hundred", "a tenant without a positive", "a column of nulls", "an unseen category"],
)
def test_odd_data_is_trained_on_and_every_figure_is_known_or_unknown(tmp_path, kind):
    metrics, predictions = train(tmp_path, odd(kind))

    assert predictions[list(CANDIDATES)].notna().all().all()
    assert json.dumps(metrics, allow_nan=False)
    assert all(
        one["holdout"]["average_precision"]["value"] > 0 for one in metrics["candidates"].values()
    )


REFUSED = {
    "no positive": (sessions(300).assign(label=False), "All 300 rows did not have the outcome"),
    "no negative": (sessions(300).assign(label=True), "All 300 rows had the outcome"),
    "nothing over yet": (
        sessions(300).assign(status="open", label=None),
        "No row can be used for training yet .*300 open",
    ),
    "too few": (sessions(50).assign(label=[True] + [False] * 49), "Too few rows: of 50 rows"),
}


@pytest.mark.parametrize(("frame", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_learned_from_is_refused_in_a_sentence(frame, sentence):
    with pytest.raises(UserError, match=sentence + ".*`make data`"):
        training.prepare(frame, SETTINGS)


def test_fifty_rows_are_learned_from_where_each_part_knows_both_outcomes(tmp_path):
    metrics, _ = train(tmp_path, sessions(50).assign(label=[True, False] * 25))

    assert all(each["too_small"] for each in metrics["candidates"]["logistic"]["segments"])


def test_two_runs_are_compared_from_their_folders_alone(tmp_path, trained):
    store = Store(tmp_path)
    own = [{"candidates": ["baseline", "logistic"]}, {"seed": 1, "candidates": ["baseline"]}]
    figures = [trained, train(tmp_path, sessions(1500), ["baseline"])]
    wider, other = (
        keep(store, settings, *results) for settings, results in zip(own, figures, strict=True)
    )

    comparison = Comparison(other, wider)
    text = format_comparison(comparison)
    page = render("compare.html", title="Two runs", comparisons=[comparison])

    assert comparison.settings == [
        ("train.seed", 1, "not set"),
        ("train.candidates", "baseline", "baseline, logistic"),
    ]
    assert comparison.changed[0] == 300 and 0 < len(comparison.changed[1]) <= 10
    assert (
        re.search(r"average_precision +0\.\d+ \(.* to .*\) +0\.\d+", text)
        and "changed most" in text
    )
    assert f"of run {wider.id} is significantly better" in page and page.count("<tr>") > 20
    assert re.search(r"lead on shared sessions +\+0\.\d+ \(.* to .*\) on 300 sessions", text)
    assert "300 sessions in both holdouts" in " ".join(page.split())
    assert Comparison(wider, wider).settings == Comparison(wider, wider).changed[1] == []
    assert "it is the same run" in render(
        "compare.html", title="", comparisons=[Comparison(wider, wider)]
    )
    assert [line.split()[0] for line in format_runs(store).splitlines()[1:]].count(wider.id) == 1


def test_runs_without_a_common_session_are_not_called_better(tmp_path, trained):
    store, (metrics, predictions) = Store(tmp_path), trained
    other = predictions.assign(entity_id="x" + predictions["entity_id"])
    a, b = (
        keep(store, {"seed": seed}, metrics, rows) for seed, rows in [(1, predictions), (2, other)]
    )

    comparison = Comparison(a, b)

    assert "no session with the outcome is in both holdouts" in format_comparison(comparison)
    page = render("compare.html", title="", comparisons=[comparison])
    assert "cannot be compared with" in page and "significantly" not in page


def test_three_runs_are_compared_on_the_rows_of_all_and_none_is_called_better_by_luck(
    tmp_path, trained
):
    store, (metrics, predictions) = Store(tmp_path), trained
    own = [predictions, predictions.iloc[20:], predictions.iloc[:-30]]
    ids = [keep(store, {"seed": place}, metrics, rows).id for place, rows in enumerate(own)]

    comparisons, page = compare(store, ids)

    html = page.read_text()
    assert [len(one.shared) for one in comparisons] == [len(predictions) - 50] * 2
    assert [one.verdict for one in comparisons] == ["open", "open"]
    assert "0 of 2 runs differ significantly" in " ".join(html.split())
    assert html.count("is not significantly better or worse") == 2
    assert html.count('class="limit"') == 2


def test_a_runs_tag_and_note_are_in_the_table_of_all_runs(tmp_path, trained):
    store = Store(tmp_path)
    run = keep(store, {"seed": 1}, *trained)

    run.tag("wide", "with <b>six</b> features")
    run.tag("old", None)
    run.tag("old", None, is_removed=True)
    write_table(store, "Runs")

    assert run.tags == {"tags": ["wide"], "note": "with <b>six</b> features"}
    assert format_runs(store).endswith("wide: with <b>six</b> features")
    html = (store.reports / "runs.html").read_text()
    assert "with &lt;b&gt;six&lt;/b&gt; features" in html
    assert f'href="../runs/{run.id}/report.html"' in html


def keep(store: Store, settings: dict, metrics: dict, predictions: pd.DataFrame):
    run = runs.begin(store, "s1", {"train": settings})
    used = {"baseline": {"cpu_seconds": 1.0, "peak_mb": 100}}
    run.finish(metrics, predictions, {"features": [{"name": "a"}]}, "select 1", used, 2.0)
    return run


BUDGET = {"trials": 3, "search_seconds": 600}


def look(file, **budget):
    parts = split(1200)
    schema = FeatureSchema.from_frame(parts.train.features)
    return search.search(
        "xgboost", parts, schema, {"seed": 7, "n_estimators": 40}, BUDGET | budget, file
    )


def test_a_search_that_was_killed_goes_on_where_it_stopped_and_ends_as_an_unbroken_one(
    tmp_path, monkeypatch
):
    unbroken = look(tmp_path / "unbroken.jsonl")
    fits = []

    def fit_or_die(*given):
        fits.append(1)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setattr(search, "fit", fit_or_die)
    with pytest.raises(KeyboardInterrupt):
        look(tmp_path / "killed.jsonl")

    assert look(tmp_path / "killed.jsonl") == unbroken
    assert len(fits) == 5
    assert not unbroken[1]["is_cut_off"] and len(unbroken[1]["trials"]) == 4


def test_a_search_keeps_the_usual_settings_where_none_is_better_and_says_that_time_was_up(tmp_path):
    best, history = look(tmp_path / "cut.jsonl", search_seconds=0)

    assert (best, history["is_cut_off"], len(history["trials"])) == ({}, True, 1)


def test_training_searches_where_trials_are_set(tmp_path):
    settings = SETTINGS | {"train": SETTINGS["train"] | {"trials": 2}}

    metrics, _ = train(
        tmp_path / "run" / "candidates", sessions(1200), ["baseline", "logistic"], settings
    )

    history = metrics["candidates"]["logistic"]["search"]
    assert [set(each["settings"]) for each in history["trials"]] == [set(), {"C"}, {"C"}]
    assert metrics["candidates"]["baseline"]["search"] is None


def test_cuts_count_what_each_threshold_decides_and_have_the_servers():
    label, probability = np.array([0, 1, 0, 1]), np.array([0.05, 0.3, 0.4, 0.9])
    decision = {"value_of_hit": 9.0, "cost_of_alarm": 1.0}

    steps = cuts(label, probability, 0.35, decision, days=2.0)

    [one] = [cut for cut in steps if cut["threshold"] == 0.35]
    assert (one["hits"], one["false_alarms"], one["misses"], one["quiet"]) == (1, 1, 1, 1)
    assert (one["precision"], one["recall"], one["alarms_per_day"]) == (0.5, 0.5, 1.0)
    assert one["value_per_1000"] == 2000
    assert steps[0]["recall"] == 1


def test_partial_dependence_rises_with_the_outcome_and_has_the_common_values(trained):
    metrics = trained[0]
    drawn = metrics["candidates"][metrics["chosen"]]["dependence"]
    curves = {one["feature"]: one["points"] for one in drawn}

    cart = [point["probability"] for point in curves["cart_add_count"]]

    assert cart[0] < cart[-1]
    assert len(curves) <= 10 and "never_known_number" not in curves


def test_partial_dependence_of_a_category_has_its_values_by_name():
    parts = split(1500)
    schema = FeatureSchema.from_frame(parts.train.features)
    model = fit("logistic", parts.train, parts.validation, schema, SETTINGS["train"])

    [curve] = dependence(model, parts.holdout, {"channel": 0.1, "cart_add_count": 0.0})

    means = {point["value"]: point["probability"] for point in curve["points"]}
    assert max(means, key=means.get) == "mail" and len(means) == 3


def test_the_reasons_of_an_infinite_value_are_json_and_call_it_unknown():
    parts = split(600)
    schema = FeatureSchema.from_frame(parts.train.features)
    model = fit("logistic", parts.train, parts.validation, schema, SETTINGS["train"])
    rows = parts.holdout.features.head(1).assign(visitor_past_rate=np.inf, cart_add_count=9)

    [reasons] = reasons_of(model, rows[schema.names]).values()

    values = {reason["feature"]: reason["value"] for reason in reasons}
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values.get("visitor_past_rate") is None and values["cart_add_count"] == 9
