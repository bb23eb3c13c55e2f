from dataclasses import replace

import pytest

from ml.gate import CHECKS, Facts, choose, decide

LIMITS = {
    "champion_margin": 0.01,
    "slice_drop": 0.05,
    "calibration_error": 0.05,
    "latency_ms": 250,
}


def lead(value: float, low: float) -> dict:
    return {"value": value, "low": low, "high": 2 * value - low}


def slices(tenant_precision: float, positives: int = 40) -> list[dict]:
    common = {"slice": "tenant_id", "rows": 400, "too_small": positives < 20}
    return [
        common | {"value": "acme", "positives": positives, "average_precision": tenant_precision},
        common | {"value": "tiny", "positives": 3, "average_precision": 0.01, "too_small": True},
    ]


GOOD = Facts(
    candidate="xgboost",
    champion="4f0c",
    against_rule=lead(0.08, 0.03),
    against_champion=lead(0.0, -0.005),
    slices=slices(0.30),
    rule_slices=slices(0.28),
    calibration_error=0.01,
    values_differing=0,
    smoke_passed=True,
    p99_ms=20.0,
)
BAD = {
    "beats_the_rule": {"against_rule": lead(0.02, -0.001)},
    "not_worse_than_champion": {"against_champion": lead(0.0, -0.011)},
    "no_slice_falls": {"slices": slices(0.20)},
    "calibration": {"calibration_error": 0.2},
    "serves_as_trained": {"values_differing": 1},
    "smoke": {"smoke_passed": False, "smoke_sentence": "The server ended at once: no module named shop."},
    "latency": {"p99_ms": 900.0},
}
UNKNOWN = {
    "beats_the_rule": {"against_rule": None},
    "not_worse_than_champion": {"against_champion": {"value": 0.1, "low": None, "high": None}},
    "no_slice_falls": {"slices": None},
    "calibration": {"calibration_error": float("nan")},
    "serves_as_trained": {"values_differing": None},
    "smoke": {"smoke_passed": None},
    "latency": {"p99_ms": None},
}


def failed(facts: Facts, limits: dict = LIMITS) -> list[str]:
    return [check.name for check in decide(facts, limits).failed]


def test_a_good_candidate_passes_every_check():
    decision = decide(GOOD, LIMITS)

    assert decision.passed
    assert [check.__name__ for check in CHECKS] == [check.name for check in decision.checks]


def test_every_check_has_a_bad_twin():
    assert {check.__name__ for check in CHECKS} == set(BAD) == set(UNKNOWN)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_candidate_is_refused_by_name_and_told_what_to_do(name):
    decision = decide(replace(GOOD, **BAD[name]), LIMITS)

    assert not decision.passed
    assert [check.name for check in decision.failed] == [name]
    assert "`make" in decision.failed[0].sentence or "project.toml" in decision.failed[0].sentence


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_refused(name):
    assert failed(replace(GOOD, **UNKNOWN[name])) == [name]


def test_nothing_known_at_all_fails_every_check_but_the_one_on_an_absent_champion():
    assert set(failed(Facts("xgboost", champion=None), {})) == set(BAD) - {"not_worse_than_champion"}


@pytest.mark.parametrize("key", LIMITS)
def test_a_limit_that_is_not_set_shuts_the_gate(key):
    limits = {name: limit for name, limit in LIMITS.items() if name != key}

    assert len(failed(GOOD, limits)) == 1


def test_the_rule_itself_is_refused_in_a_sentence_that_says_so():
    check = decide(replace(GOOD, candidate="rule"), LIMITS).failed[0]

    assert check.name == "beats_the_rule"
    assert "the rule itself" in check.sentence


def test_the_first_deployment_needs_no_champion():
    assert decide(replace(GOOD, champion=None, against_champion=None), LIMITS).passed


def test_a_slice_too_small_to_judge_does_not_shut_the_gate():
    bad, few = slices(0.20, positives=19), slices(0.28, positives=19)

    assert decide(replace(GOOD, slices=bad, rule_slices=few), LIMITS).passed


def test_the_decision_is_plain_values():
    first = decide(GOOD, LIMITS).to_dict()["checks"][0]

    assert set(first) == {"name", "passed", "figure", "limit", "sentence"}


def validation(**precisions: float | None) -> dict:
    return {name: {"average_precision": {"value": value}} for name, value in precisions.items()}


def test_the_best_on_validation_is_chosen():
    assert choose(validation(rule=0.2, logistic=0.3, xgboost=0.25)) == "logistic"


def test_a_tie_goes_to_the_simpler_candidate():
    assert choose(validation(rule=0.2, logistic=0.3, xgboost=0.3)) == "logistic"


def test_a_candidate_without_a_figure_is_not_chosen():
    assert choose(validation(rule=0.2, logistic=None)) == "rule"
    with pytest.raises(ValueError, match="No candidate"):
        choose(validation(rule=None))
