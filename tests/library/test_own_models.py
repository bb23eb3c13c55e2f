"""Models of single tenants: which tenants have one, what it learns from, and who is promoted."""

import numpy as np
import pandas as pd
import pytest

from jollyboat.serving.own_champions import Decision, decide
from jollyboat.store import project_settings
from jollyboat.training import own_models
from jollyboat.training.own_models import FAILED, FITTED, TOO_FEW
from jollyboat.training.split import by_time

FITTED_RESULT = {
    "status": FITTED,
    "reason": "",
    "is_private": False,
    "is_better": True,
    "holdout_rows": 100,
    "holdout_outcomes": 12,
    "lead": {"value": 0.08, "low": 0.03, "high": 0.13, "p": 0.001},
}
NOT_BETTER = FITTED_RESULT | {
    "is_better": False,
    "lead": {"value": 0.01, "low": -0.03, "high": 0.05, "p": 0.3},
}
BEHIND = NOT_BETTER | {"lead": {"value": -0.02, "low": -0.06, "high": 0.02, "p": 0.8}}
FEW = {"status": TOO_FEW, "reason": "12 outcomes to learn from, 50 are needed", "is_private": False}
BROKEN = {"status": FAILED, "reason": "the fit failed: no", "is_private": False}


def rows_of(tenant: str, count: int, slope: float, seed: int, rate: float = 0.3) -> pd.DataFrame:
    """A tenant's training rows; the outcome depends on `signal` with this slope."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=count)
    odds = np.log(rate / (1 - rate)) + slope * signal
    return pd.DataFrame(
        {
            "tenant_id": tenant,
            "entity_id": [f"{tenant}-{place}" for place in range(count)],
            "point_at": pd.Timestamp("2026-01-01")
            + pd.to_timedelta(np.sort(rng.integers(0, 20 * 86400, count)), unit="s"),
            "status": "train",
            "label": rng.random(count) < 1 / (1 + np.exp(-odds)),
            "person_id": [f"p{place}" for place in range(count)],
            "signal": signal,
            "noise": rng.normal(size=count),
            "brand": rng.choice([f"{tenant}-a", f"{tenant}-b"], count),
        }
    )


@pytest.fixture
def settings():
    chosen = project_settings().model_dump(mode="json")
    chosen["train"] = chosen["train"] | {"candidates": ["logistic"]}
    chosen["evaluate"] = chosen["evaluate"] | {"resamples": 200}
    return chosen


@pytest.fixture
def rows():
    """Two tenants whose outcomes depend on the signal in opposite ways, and a tiny one."""
    return {
        "large": rows_of("large", 1500, 2.0, 1),
        "other": rows_of("other", 1500, -2.0, 2),
        "tiny": rows_of("tiny", 60, -2.0, 3),
    }


@pytest.fixture
def moments(rows):
    return by_time(pd.concat(rows.values()), 0.6, 0.2)


def test_an_own_model_does_not_depend_on_the_rows_of_other_tenants(rows, settings, tmp_path):
    alone = own_models.fit_tenants({"large": rows["large"]}, settings, tmp_path / "alone")
    beside = own_models.fit_tenants(rows, settings, tmp_path / "beside")

    expected, actual = (each["large"]["holdout"] for each in (alone, beside))
    pd.testing.assert_frame_equal(expected, actual)


def test_a_tenant_that_started_late_learns_from_its_own_first_rows(rows, settings, tmp_path):
    late = rows["large"].assign(point_at=rows["large"]["point_at"] + pd.Timedelta(days=15))

    result = own_models.fit_tenants({"large": late}, settings, tmp_path)["large"]

    assert (result["status"], result["rows"]) == (FITTED, 1200)


def test_a_tenant_that_stopped_before_the_shared_holdout_is_not_compared(
    rows, moments, settings, tmp_path
):
    old = rows["large"].assign(point_at=rows["large"]["point_at"] - pd.Timedelta(days=30))
    results = own_models.fit_tenants({"large": old}, settings, tmp_path)
    shared = moments.holdout.keys[own_models.ROW].assign(probability=0.5)

    compared, _ = own_models.compare(results, shared, settings)

    assert compared["large"]["holdout_rows"] == 0
    assert decide(compared["large"], None, has_own=False).model == "shared"
    assert decide(compared["large"], None, has_own=True).model == "kept"


def test_an_own_model_knows_no_category_of_another_tenant(rows, settings, tmp_path):
    result = own_models.fit_tenants({"large": rows["large"]}, settings, tmp_path)

    assert result["large"]["status"] == FITTED
    texts = [path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert any("large-a" in text for text in texts)
    assert not any("other-a" in text for text in texts)


def test_a_tenant_with_few_outcomes_has_no_own_model_and_a_reason(
    rows, moments, settings, tmp_path
):
    result = own_models.fit_tenants({"tiny": rows["tiny"]}, settings, tmp_path)["tiny"]

    assert result["status"] == TOO_FEW
    assert "50 are needed" in result["reason"]


def test_a_private_tenant_with_few_outcomes_has_a_baseline(rows, settings, tmp_path):
    settings["tenants"] = {"min_outcomes": 50, "private": ["tiny"]}
    settings["train"] = settings["train"] | {"candidates": ["baseline", "logistic"]}
    settings["baseline"] = {"features": ["signal"]}

    result = own_models.fit_tenants({"tiny": rows["tiny"]}, settings, tmp_path)["tiny"]

    assert (result["status"], result["candidate"]) == (FITTED, "baseline")


def test_a_fit_that_fails_is_named_with_its_reason_and_the_next_tenant_is_fitted(
    rows, moments, settings, tmp_path
):
    bad = rows["large"].assign(noise=[object()] * len(rows["large"]))

    results = own_models.fit_tenants({"large": bad, "other": rows["other"]}, settings, tmp_path)

    assert results["large"]["status"] == FAILED and "noise" in results["large"]["reason"]
    assert results["other"]["status"] == FITTED


@pytest.mark.parametrize("name", ["shared", "a/b", "..", ""])
def test_a_tenant_whose_name_cannot_own_a_model_has_none(rows, settings, tmp_path, name):
    named = rows["large"].assign(tenant_id=name)

    result = own_models.fit_tenants({name: named}, settings, tmp_path)[name]

    assert result["status"] == FAILED and "cannot own a model" in result["reason"]
    assert list(tmp_path.iterdir()) == []


def test_only_a_tenant_whose_lead_over_the_shared_model_is_significant_is_better(
    rows, moments, settings, tmp_path
):
    results = own_models.fit_tenants(rows, settings, tmp_path)
    holdout = moments.holdout
    # A shared model that is right about `large`, and wrong about `other`.
    signal = holdout.features["signal"].to_numpy()
    shared = holdout.keys[own_models.ROW].assign(probability=1 / (1 + np.exp(-signal)))

    compared, own = own_models.compare(results, shared, settings)
    summary = own_models.summarize(compared, own, shared)

    assert compared["other"]["is_better"] and compared["other"]["lead"]["low"] > 0
    assert not compared["large"]["is_better"]
    assert "is_better" not in compared["tiny"]
    assert summary["better"] == 1
    precision = summary["average_precision"]
    assert precision["mixed"] > precision["shared"]


def test_every_tenant_has_a_result_though_it_has_too_few_outcomes_to_be_planned(rows, settings):
    frame = pd.concat([rows["large"], rows["tiny"].assign(label=False)])

    results = own_models.without_own(frame, settings)

    assert results["tiny"]["status"] == TOO_FEW
    assert results["tiny"]["reason"].startswith("0 outcomes")


@pytest.mark.parametrize(
    ("result", "decided", "has_own", "model", "reason"),
    [
        (FITTED_RESULT, None, False, "own", "own: +0.08 (+0.03 to +0.13)"),
        (
            NOT_BETTER,
            None,
            False,
            "shared",
            "shared: own is not significantly better, +0.01 (−0.03 to +0.05)",
        ),
        (NOT_BETTER, None, True, "own", "own: stays ahead, +0.01 (−0.03 to +0.05)"),
        (BEHIND, None, True, "shared", "shared: own is not significantly better, −0.02"),
        (FEW, None, False, "shared", "shared: 12 outcomes to learn from, 50 are needed"),
        (FEW, None, True, "kept", "kept: 12 outcomes"),
        (BROKEN, None, True, "kept", "kept: the fit failed: no"),
        (FEW | {"is_private": True}, None, False, "none", "none: 12 outcomes"),
        (FITTED_RESULT | {"is_private": True}, None, False, "own", "own: private"),
        (
            FITTED_RESULT,
            {"state": "pinned", "by": "ada", "why": "they asked"},
            False,
            "shared",
            "shared: pinned by ada, they asked",
        ),
        (
            FITTED_RESULT,
            {"state": "paused", "by": "ada", "why": "sale"},
            True,
            "kept",
            "kept: paused by ada, sale",
        ),
    ],
)
def test_each_tenants_model_has_a_reason(result, decided, has_own, model, reason):
    decision = decide(result, decided, has_own)

    assert isinstance(decision, Decision)
    assert decision.model == model
    assert decision.reason.startswith(reason)
