import json

import numpy as np
import pandas as pd
import pytest
from ml_data import part
from sklearn import metrics as reference

from jollyboat.training.evaluate import (
    Ranking,
    calibration_chance,
    curves,
    difference,
    lead_with_p,
    metrics,
)
from jollyboat.training.own_models import CHANCE
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.segments import by_segment, search_segments, segment_columns

RNG = np.random.default_rng(5)
ROWS = 3000
LOG_ODDS = RNG.normal(-2, 1.3, ROWS)
PROBABILITY = 1 / (1 + np.exp(-LOG_ODDS))
LABEL = (RNG.random(ROWS) < PROBABILITY).astype(int)
NOISY = 1 / (1 + np.exp(-(LOG_ODDS + RNG.normal(0, 1.5, ROWS))))
TIES = {
    "no ties": PROBABILITY,
    "many ties": PROBABILITY.round(2),
    "few values": PROBABILITY.round(1) * 0.9 + 0.01,
}


def figures(label=LABEL, probability=PROBABILITY, resamples=0, groups=None, threshold=0.3):
    return metrics(label, probability, threshold, 10.0, 1.0, resamples, 7, groups)


@pytest.mark.parametrize("probability", TIES.values(), ids=TIES)
def test_figures_are_those_of_scikit_learn(probability):
    result, decided = figures(probability=probability), probability >= 0.3

    expected = {
        "average_precision": reference.average_precision_score(LABEL, probability),
        "roc_auc": reference.roc_auc_score(LABEL, probability),
        "log_loss": reference.log_loss(LABEL, probability),
        "brier": reference.brier_score_loss(LABEL, probability),
        "precision": reference.precision_score(LABEL, decided),
        "recall": reference.recall_score(LABEL, decided),
    }
    assert expected == {name: pytest.approx(result[name]["value"], abs=1e-12) for name in expected}


@pytest.mark.parametrize("probability", TIES.values(), ids=TIES)
def test_a_weight_is_how_often_a_row_counts(probability):
    weights = RNG.integers(0, 4, ROWS)

    result = Ranking.of(LABEL, probability).average_precision(weights)

    expected = reference.average_precision_score(LABEL, probability, sample_weight=weights)
    assert result == pytest.approx(expected, abs=1e-12)


def test_an_interval_is_that_of_refitted_resamples():
    result, drawn = figures(resamples=200), [RNG.integers(0, ROWS, ROWS) for _ in range(80)]
    refitted = [figures(LABEL[rows], PROBABILITY[rows]) for rows in drawn]

    for name in (
        "average_precision",
        "roc_auc",
        "brier",
        "log_loss",
        "calibration_slope",
        "lift_top_decile",
    ):
        low, high = np.quantile([each[name]["value"] for each in refitted], [0.025, 0.975])
        assert result[name]["low"] < result[name]["value"] < result[name]["high"]
        assert result[name]["high"] - result[name]["low"] == pytest.approx(high - low, rel=0.4)


def test_lift_is_that_of_the_highest_tenth():
    top = LABEL[np.argsort(-PROBABILITY)[: ROWS // 10]].mean()

    assert figures()["lift_top_decile"]["value"] == pytest.approx(top / LABEL.mean())


def test_the_expected_value_counts_hits_and_false_alarms():
    result = metrics(np.array([1, 1, 0, 0]), np.array([0.9, 0.1, 0.8, 0.2]), 0.5, 10.0, 1.0, 0, 7)

    assert result["expected_value_per_1000"]["value"] == pytest.approx(1000 * (10 - 1) / 4)


def test_rows_that_come_together_make_an_interval_wider():
    times = 5
    label, probability = np.repeat(LABEL[:600], times), np.repeat(PROBABILITY[:600], times)
    persons = np.repeat([f"p{place}" for place in range(600)], times)

    by_row, by_person = (
        figures(label, probability, 300, groups)["roc_auc"] for groups in (None, persons)
    )

    assert by_person["high"] - by_person["low"] > 1.5 * (by_row["high"] - by_row["low"])


@pytest.mark.parametrize(
    "label", [np.zeros(50, int), np.ones(50, int)], ids=["no positive", "no negative"]
)
def test_with_one_class_what_is_undefined_is_none(label):
    result = figures(label, PROBABILITY[:50], 20)

    assert (
        result["roc_auc"]
        == result["calibration_slope"]
        == {"value": None, "low": None, "high": None}
    )
    assert result["brier"]["value"] is not None


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match="predict_proba"):
        figures(LABEL[:2], np.array([0.5, bad]))


def test_the_better_of_two_leads():
    result = difference(LABEL, PROBABILITY, NOISY, 200, 7)

    expected = reference.average_precision_score(
        LABEL, PROBABILITY
    ) - reference.average_precision_score(LABEL, NOISY)
    assert result["value"] == pytest.approx(expected)
    assert 0 < result["low"] < result["value"] < result["high"]


@pytest.mark.parametrize(
    ("baseline", "positives"),
    [("noise", 1), ("noise", 2), ("noise", 4), ("constant", 3), ("constant", 20)],
)
def test_noise_leads_significantly_at_most_5_times_of_100_whatever_the_number_of_outcomes(
    baseline, positives
):
    rng, label, wins, times = np.random.default_rng(3), np.arange(150) < positives, 0, 60
    for _ in range(times):
        theirs = rng.random(150) if baseline == "noise" else np.full(150, 0.1)
        low = difference(label, rng.random(150), theirs, 40, 7)["low"]
        wins += low is not None and low > 0

    assert wins <= 0.05 * times


def test_outcomes_of_one_person_have_no_interval():
    persons = np.where(LABEL == 1, 0, np.arange(ROWS))

    result = difference(LABEL, PROBABILITY, NOISY, 20, 7, persons)

    assert result["value"] > 0 and result["low"] is result["high"] is None


def test_a_lead_has_the_interval_of_its_difference_and_a_small_p_value():
    lead = lead_with_p(LABEL, PROBABILITY, NOISY, 200, 7)

    assert difference(LABEL, PROBABILITY, NOISY, 200, 7).items() < lead.items()
    assert lead["p"] < 1e-4
    assert lead_with_p(LABEL, NOISY, PROBABILITY, 200, 7)["p"] > 1 - 1e-4


def test_there_is_no_lead_over_the_same_probabilities_or_with_one_positive():
    one = np.arange(ROWS) == 0

    assert lead_with_p(LABEL, PROBABILITY, PROBABILITY, 50, 7)["p"] == 1
    assert lead_with_p(one, PROBABILITY, NOISY, 50, 7) | {"value": 0} == {
        "value": 0,
        "low": None,
        "high": None,
        "p": 1,
    }


def test_of_two_models_with_equal_errors_none_leads_more_often_than_by_chance():
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        odds = rng.normal(-1.5, 1.3, 150)
        models = (1 / (1 + np.exp(-odds - rng.normal(0, 1, 150))) for _ in range(2))
        p.append(lead_with_p(rng.random(150) < 1 / (1 + np.exp(-odds)), *models, 40, 0)["p"])

    assert np.mean(np.array(p) < 0.05) < 0.08
    assert np.mean(np.array(p) <= CHANCE) <= 0.01


def test_segments_say_how_good_and_whether_that_can_be_judged():
    device = np.where(
        np.arange(ROWS) < 20, "tv", np.where(np.arange(ROWS) % 3 == 0, "mobile", None)
    )

    entries = by_segment(
        segment_columns(part(pd.DataFrame({"device": device}), LABEL), ["device"]),
        LABEL,
        PROBABILITY,
    )

    entries_by_value = {entry["value"]: entry for entry in entries}
    mobile = device == "mobile"
    assert {"mobile", "tv", "(unknown)"} == set(entries_by_value)
    assert [entries_by_value[value]["too_small"] for value in ("mobile", "(unknown)", "tv")] == [
        False,
        False,
        True,
    ]
    assert (int(mobile.sum()), int(LABEL[mobile].sum())) == (
        entries_by_value["mobile"]["rows"],
        entries_by_value["mobile"]["positives"],
    )
    assert entries_by_value["mobile"]["average_precision"] == pytest.approx(
        reference.average_precision_score(LABEL[mobile], PROBABILITY[mobile])
    )


def test_a_slice_without_a_positive_has_no_figure_and_does_not_crash():
    entry = by_segment(pd.DataFrame({"tenant_id": ["tiny"] * 5}), np.zeros(5), PROBABILITY[:5])[0]

    assert entry["average_precision"] is None
    assert entry["too_small"]


def test_the_smallest_of_very_many_segments_are_judged_together():
    tenants = pd.DataFrame({"tenant_id": [f"t{number}" for number in np.arange(ROWS) % 60]})

    entries = by_segment(tenants, LABEL, PROBABILITY)

    assert ["(10 others)"] == [
        each["value"] for each in entries if not each["value"].startswith("t")
    ]
    assert ROWS == sum(each["rows"] for each in entries)


def test_a_segments_lead_is_less_sure_where_its_rows_are_few_persons():
    one = pd.DataFrame({"tenant_id": ["acme"] * ROWS})

    (by_row,) = by_segment(one, LABEL, PROBABILITY, NOISY, 100)
    (by_person,) = by_segment(
        one, LABEL, PROBABILITY, NOISY, 100, groups=np.sort(np.arange(ROWS) % (ROWS // 20))
    )

    widths = [
        each["against_baseline"]["high"] - each["against_baseline"]["low"]
        for each in (by_row, by_person)
    ]
    assert widths[0] < widths[1]


def test_curves_are_few_points_that_begin_and_end_right():
    drawn = curves(LABEL, PROBABILITY)

    assert all(len(points) <= 200 for points in drawn.values())
    assert drawn["gains"][0] == {"rows": 0.0, "positives": 0.0}
    assert drawn["gains"][-1] == {"rows": 1.0, "positives": 1.0}
    assert drawn["precision_recall"][-1]["precision"] == pytest.approx(LABEL.mean())
    assert sum(point["rows"] for point in drawn["calibration"]) == ROWS
    assert all(point["low"] <= point["rate"] <= point["high"] for point in drawn["calibration"])


def test_everything_is_plain_values_for_json():
    segments = by_segment(
        pd.DataFrame({"known": np.arange(ROWS) % 2}).astype(str), LABEL, PROBABILITY, NOISY, 5
    )
    drawn = [
        figures(resamples=5),
        curves(LABEL, PROBABILITY),
        curves(LABEL * 0, PROBABILITY),
        segments,
    ]

    assert drawn == json.loads(json.dumps(drawn, allow_nan=False))


def test_a_number_is_cut_into_spans_and_a_point_has_its_day():
    rows = part(pd.DataFrame({"pace": np.arange(ROWS) / 7, "cart": np.arange(ROWS) % 3}), LABEL)

    columns = segment_columns(rows, ["pace", "cart", "day", "not_there"])

    assert list(columns.columns) == ["pace", "cart", "day"]
    assert columns["pace"].nunique() == 4 and columns["pace"].value_counts().max() < ROWS / 3
    assert set(columns["cart"]) == {"0", "1", "2"}
    assert columns["day"].iloc[0] == "2026-01-01"


def test_the_search_names_the_slice_on_which_a_model_was_broken_and_finds_little_in_a_good_one():
    features = pd.DataFrame(
        {"device": RNG.choice(["tv", "mobile", "app"], ROWS), "hour": RNG.integers(0, 24, ROWS)}
    )
    broken = np.where((features["device"] == "tv") & (features["hour"] >= 18), 0.9, PROBABILITY)
    rows, schema = part(features, LABEL), FeatureSchema.from_frame(features)

    worst, good = (search_segments(rows, schema, each, 7)[0] for each in (broken, PROBABILITY))

    assert "device is tv" in worst["value"] and "hour over 17" in worst["value"]
    assert worst["gap"] < -0.5 and abs(good["gap"]) < 0.1


def test_what_a_perfect_models_calibration_error_stays_below_is_large_with_few_rows():
    few, many = (calibration_chance(np.resize(PROBABILITY, rows), 7) for rows in (563, 50_000))
    right = [
        figures(RNG.random(563) < PROBABILITY[:563], PROBABILITY[:563])["calibration_error"][
            "value"
        ]
        for _ in range(60)
    ]

    assert 0.03 < few < 0.09 and many < 0.01
    assert np.mean(np.array(right) < few) > 0.85
