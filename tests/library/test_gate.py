"""Every check passes on a good candidate and shuts on its bad twin; a project can add its own."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, logit
from test_pages import gate_context

from jollyboat.gate.gate import Facts, decide
from jollyboat.gate.gate_report import format_checks
from jollyboat.gate.tenant_tail import compare_tenants, find_tail
from jollyboat.pages import page
from jollyboat.store import UserError
from jollyboat.training.training import choose

LIMITS = {
    "champion_margin": 0.01,
    "segment_drop": 0.05,
    "tenant_drop": 0.05,
    "calibration_error": 0.05,
    "latency_ms": 250,
}
LIMITS |= {
    "min_outcomes": 20,
    "feature_auc": 0.95,
    "model_auc": 0.97,
    "shared_rows": 0.01,
    "memory_mb": 2000,
    "bundle_mb": 50,
}
LIMITS |= {"training_seconds": 3600}


def lead(value: float, low: float) -> dict:
    return {"value": value, "low": low, "high": 2 * value - low}


def segments(high: float) -> list[dict]:
    """One whose lead over the baseline is significantly below `high`, and one too small to judge."""
    lead = {"value": high - 0.02, "low": high - 0.04, "high": high}
    return [
        {"segment": "tenant_id", "value": "acme", "too_small": False, "against_baseline": lead},
        {"segment": "tenant_id", "value": "tiny", "too_small": True},
    ]


def tenants(worst: float, count: int = 40) -> list[dict]:
    """Tenants whose losses differ by chance alone, but for the first tenth of them."""
    return [
        {
            "tenant": f"shop_{place:02}",
            "rows": 100,
            "loss": worst if place < count // 10 else 0.01 * (-1) ** place,
            "error": 0.02,
        }
        for place in range(count)
    ]


def leaks(shared_rows: float = 0.002, **features: float) -> dict:
    return {
        "features": features or {"cart_add_count": 0.7},
        "values": [],
        "shared_rows": shared_rows,
        "shared_by_chance": 0.001,
    }


def stamp(is_spike: bool = True) -> dict:
    finding = "none of them has the outcome"
    return {
        "feature": "last_gap_seconds",
        "value": "30",
        "share": 0.58,
        "finding": finding,
        "is_spike": is_spike,
    }


GOOD = Facts(
    candidate="xgboost",
    champion="4f0c",
    positives=80,
    negatives=700,
    against_baseline=lead(0.08, 0.03),
    against_champion=lead(0.0, -0.005),
    rolled_back="",
    segments=segments(0.04),
    tenants=tenants(0.01),
    calibration_error=0.01,
    calibration_chance=0.02,
    misbehaving=[],
    leaks=leaks(),
    roc_auc=0.9,
    differing={},
    smoke_passed=True,
    p99_ms=20.0,
    memory_mb=300,
    bundle_mb=0.2,
    training_seconds=8,
)
BAD = {
    "enough_outcomes": {"positives": 2},
    "beats_the_baseline": {"against_baseline": lead(0.02, -0.001)},
    "not_worse_than_champion": {"against_champion": lead(0.0, -0.011)},
    "was_not_rolled_back": {"rolled_back": "rolled back on 2026-01-09 by ada: too many alarms"},
    "no_segment_falls": {"segments": segments(-0.06)},
    "no_tenant_tail_falls": {"tenants": tenants(0.2)},
    "calibration": {"calibration_error": 0.2},
    "behaves": {"misbehaving": ["other ids same score: at most 0.3 apart."]},
    "no_feature_is_too_good": {"leaks": leaks(bought_later=0.99)},
    "no_value_tells_the_outcome": {"leaks": leaks() | {"values": [stamp()]}},
    "not_too_good": {"roc_auc": 0.99},
    "no_row_of_the_past_returns": {"leaks": leaks(shared_rows=0.05)},
    "serves_as_trained": {"differing": {"event_count": 3}},
    "smoke": {
        "smoke_passed": False,
        "smoke_sentence": "The server ended at once: no module named shop.",
    },
    "latency": {"p99_ms": 900.0},
    "memory": {"memory_mb": 9000},
    "bundle_size": {"bundle_mb": 90},
    "training_time": {"training_seconds": 9000},
}
UNKNOWN = {name: {next(iter(facts)): None} for name, facts in BAD.items()}


def failed(facts: Facts, limits: dict = LIMITS) -> dict[str, str]:
    return {
        check.name: check.sentence for check in decide(facts, limits).checks if not check.passed
    }


def test_a_good_candidate_passes_every_check_and_each_has_a_bad_twin():
    decision = decide(GOOD, LIMITS)

    assert decision.passed
    assert list(BAD) == list(UNKNOWN) == [check["name"] for check in decision.to_dict()["checks"]]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_candidate_is_refused_by_name_with_a_remedy(name):
    refused = failed(replace(GOOD, **BAD[name]))

    assert [name] == list(refused)
    assert "`make" in refused[name] or "project.toml" in refused[name]


def test_a_figure_that_is_no_number_is_refused():
    assert ["calibration"] == list(failed(replace(GOOD, calibration_error=float("nan"))))


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_refused(name):
    assert name in failed(replace(GOOD, **UNKNOWN[name]))


def test_a_refusal_names_what_did_it():
    bad = replace(
        GOOD, **BAD["serves_as_trained"], **BAD["behaves"], **BAD["no_feature_is_too_good"]
    )

    sentences = " ".join(failed(bad).values())

    assert "3 values of event_count differ" in sentences
    assert "other ids same score: at most 0.3 apart" in sentences
    assert "bought_later alone ranks" in sentences


def test_the_behaviour_check_counts_the_cases_and_says_which_were_skipped_and_why():
    facts = replace(GOOD, behaving=4, skipped_cases=["likes: skipped, because no event has x."])
    check = next(each for each in decide(facts, LIMITS).checks if each.name == "behaves")

    assert check.passed
    assert check.sentence == "4 behavioural cases pass. likes: skipped, because no event has x."


def test_a_telling_value_of_a_count_or_a_zero_is_a_warning_and_passes():
    warned = replace(GOOD, leaks=leaks() | {"values": [stamp(is_spike=False)]})
    check = next(
        each for each in decide(warned, LIMITS).checks if each.name == "no_value_tells_the_outcome"
    )

    assert check.passed
    assert "Possible leak: last_gap_seconds is 30 in 58 % of the sessions" in check.sentence


def test_a_feature_from_090_on_is_a_possible_leak_and_names_those_collinear_with_it():
    strong = leaks(cart_value=0.93) | {"collinear": {"cart_value": ["cart_add_count"]}}
    check = next(
        each
        for each in decide(replace(GOOD, leaks=strong), LIMITS).checks
        if each.name == "no_feature_is_too_good"
    )

    assert check.passed and check.sentence.startswith("Possible leak: cart_value alone ranks")
    assert "(collinear with it: cart_add_count)" in check.sentence


def test_a_check_that_passes_with_a_possible_leak_reads_as_a_warning_on_terminal_and_page():
    decision = decide(replace(GOOD, leaks=leaks(cart_value=0.93)), LIMITS).to_dict()
    context = gate_context(passed=True)
    report = SimpleNamespace(**vars(context["report"]) | {"decision": decision})

    lines = format_checks(SimpleNamespace(checks=decision["checks"])).splitlines()
    html = page.render("gate.html", title="Deployment", **context | {"report": report})

    assert [line.split()[1] for line in lines if line.startswith("warning")] == [
        "no_feature_is_too_good"
    ]
    assert 1 == html.count("! warning")


def test_a_check_that_has_nothing_to_judge_does_not_read_as_a_pass():
    nothing = {"champion": None, "against_champion": None, "tenants": tenants(5.0, 9)}
    first = replace(GOOD, behaving=4, **nothing)
    decision = decide(first, LIMITS).to_dict()
    context = gate_context(passed=True)
    report = SimpleNamespace(**vars(context["report"]) | {"decision": decision})

    lines = format_checks(SimpleNamespace(checks=decision["checks"])).splitlines()
    html = page.render("gate.html", title="Deployment", **context | {"report": report})

    without = ["not_worse_than_champion", "no_tenant_tail_falls"]
    assert [line.split()[1] for line in lines if line.startswith("n/a")] == without
    assert decision["passed"] and html.count("– n/a") == len(without)
    assert f"All {len(lines) - 2} checks that apply passed." in html


def test_with_few_rows_a_calibration_error_that_chance_explains_passes():
    few = replace(GOOD, calibration_error=0.058, calibration_chance=0.06)

    assert decide(few, LIMITS).passed
    assert ["calibration"] == list(failed(replace(few, calibration_error=0.061)))
    assert ["calibration"] == list(failed(replace(few, calibration_chance=None)))


def test_probabilities_of_a_rare_outcome_may_be_off_by_half_of_its_rate_at_most():
    rare = replace(GOOD, label_rate=0.02, calibration_error=0.015, calibration_chance=0.005)

    assert ["calibration"] == list(failed(rare))
    assert decide(replace(rare, calibration_error=0.009), LIMITS).passed


def test_too_few_outcomes_are_refused_by_number_whichever_outcome_is_rare():
    few = failed(replace(GOOD, positives=2, negatives=598))["enough_outcomes"]
    many = failed(replace(GOOD, positives=598, negatives=19))["enough_outcomes"]

    assert "2 sessions with the outcome and 598 without it; 20 of each are needed" in few
    assert "598 sessions with the outcome and 19 without it" in many
    assert failed(replace(GOOD, positives=20, negatives=580)) == {}


def test_a_lead_without_an_interval_is_refused_in_a_sentence_about_outcomes():
    unknown = {"value": 0.2, "low": None, "high": None}
    refused = failed(replace(GOOD, against_baseline=unknown, against_champion=unknown))

    assert ["beats_the_baseline", "not_worse_than_champion"] == list(refused)
    assert all("Fewer than two outcomes" in sentence for sentence in refused.values())


def test_a_candidate_of_newer_sessions_passes_where_it_is_not_significantly_worse():
    wide = {"value": 0.033, "low": -0.017, "high": 0.080}
    worse = {"value": -0.05, "low": -0.09, "high": -0.01}
    newer = replace(GOOD, is_newer=True, against_champion=wide)

    sentence = failed(replace(newer, is_newer=False))["not_worse_than_champion"]
    passed = {check.name: check.sentence for check in decide(newer, LIMITS).checks}

    assert failed(newer) == {}
    assert "sees differences of 0.049 or more" in sentence
    assert "newer sessions" in passed["not_worse_than_champion"]
    assert ["not_worse_than_champion"] == list(failed(replace(newer, against_champion=worse)))


def test_a_segment_on_which_the_champion_was_better_is_named():
    refused = failed(replace(GOOD, champion_segments=segments(-0.06)))

    assert (
        "Of 1 segment, closest to a loss against the champion: tenant_id = acme"
        in refused["no_segment_falls"]
    )


def test_without_a_baseline_the_sentence_says_how_to_add_one():
    assert (
        'add "baseline" to candidates under [train]'
        in failed(replace(GOOD, against_baseline=None))["beats_the_baseline"]
    )


def test_a_champion_that_cannot_score_the_holdout_shuts_the_gate_in_a_sentence():
    silent = replace(
        GOOD, against_champion=None, champion_silence="Its table lookup_price is gone."
    )

    assert "lookup_price is gone" in failed(silent)["not_worse_than_champion"]


def test_nothing_known_at_all_fails_every_check():
    assert list(BAD) == list(failed(Facts("xgboost", champion=None), {}))


@pytest.mark.parametrize("key", LIMITS)
def test_a_limit_that_is_not_set_shuts_the_gate(key):
    assert len(failed(GOOD, {name: limit for name, limit in LIMITS.items() if name != key})) == 1


def test_the_baseline_itself_is_refused_in_a_sentence_that_says_so():
    assert (
        "the baseline itself" in failed(replace(GOOD, candidate="baseline"))["beats_the_baseline"]
    )


@pytest.mark.parametrize("margin", [0.0, 0.01])
def test_the_first_deployment_needs_no_champion(margin):
    first = replace(GOOD, champion=None, against_champion=None)

    assert decide(first, LIMITS | {"champion_margin": margin}).passed


def test_a_segment_that_may_have_fallen_by_chance_does_not_shut_the_gate():
    assert decide(replace(GOOD, segments=segments(-0.04)), LIMITS).passed
    assert decide(replace(GOOD, segments=segments(0)[1:]), LIMITS).passed


@pytest.mark.parametrize("xgboost", [0.25, 0.3])
def test_the_best_on_validation_is_chosen_and_of_equals_the_simpler(xgboost):
    precisions = {"baseline": 0.2, "logistic": 0.3, "xgboost": xgboost}

    assert (
        choose(
            {name: {"average_precision": {"value": value}} for name, value in precisions.items()}
        )
        == "logistic"
    )


OWN_CHECK = """
def check_small_bundle(facts):
    limit = {limit}
    return facts.bundle_mb <= limit, facts.bundle_mb, limit, f"The bundle has {{facts.bundle_mb}} MB."
"""


@pytest.fixture
def write_own_checks(tmp_path):
    """Writes ml/gate_checks.py of a temporary project and returns the project's folder."""

    def write(text):
        (tmp_path / "ml").mkdir(exist_ok=True)
        (tmp_path / "ml/gate_checks.py").write_text(text)
        return tmp_path

    return write


def test_a_check_of_the_project_runs_after_the_librarys_and_can_refuse(write_own_checks):
    passing = decide(GOOD, LIMITS, write_own_checks(OWN_CHECK.format(limit=1)))
    refusing = decide(GOOD, LIMITS, write_own_checks(OWN_CHECK.format(limit=0.1)))

    assert passing.passed
    assert [check.name for check in passing.checks] == [*BAD, "small_bundle"]
    assert not refusing.passed
    assert [check.name for check in refusing.checks if not check.passed] == ["small_bundle"]
    assert (refusing.checks[-1].figure, refusing.checks[-1].limit) == (0.2, 0.1)


def test_the_page_draws_each_check_as_a_bar_to_its_limit_with_unit_interval_and_cases():
    case = {"name": "other_ids_same_score", "passed": True, "figure": 0.0, "limit": 1e-9}
    facts = replace(GOOD, against_baseline=lead(0.3, 0.25), behaving=1, cases=[case])
    decision = decide(facts, LIMITS).to_dict()
    context = gate_context(True)
    report = SimpleNamespace(**vars(context["report"]) | {"decision": decision})

    html = page.render("gate.html", title="Deployment", **context | {"report": report})

    short = "0.25 average precision (estimate 0.3, 95\u00a0% interval 0.25 to 0.35); limit: above 0"
    assert f'tabindex="0" role="img" aria-label="{short}"' in html
    assert html.count('class="limit"') == len(decision["checks"])
    assert "ms; limit: at most 250" in html
    assert "other ids same score" in html


def test_a_check_of_the_project_is_on_the_page_and_on_the_terminal(write_own_checks):
    decision = decide(GOOD, LIMITS, write_own_checks(OWN_CHECK.format(limit=0.1))).to_dict()
    context = gate_context(passed=False)
    report = SimpleNamespace(**vars(context["report"]) | {"decision": decision})

    html = page.render("gate.html", title="Deployment", **context | {"report": report})
    lines = format_checks(SimpleNamespace(checks=decision["checks"]))

    assert "small bundle" in html and "The bundle has 0.2 MB." in html
    assert "FAIL     small_bundle" in lines


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return facts.no_such_fact", "no_such_fact"),
        ("return True", "four values"),
        ("return True, float('nan'), 1, 'Fine.'", "not both finite"),
    ],
)
def test_a_check_of_the_project_that_is_broken_shuts_the_gate(write_own_checks, body, problem):
    decision = decide(GOOD, LIMITS, write_own_checks(f"def check_mine(facts):\n    {body}\n"))

    assert [check.name for check in decision.checks if not check.passed] == ["mine"]
    assert problem in decision.checks[-1].sentence
    assert "ml/gate_checks.py" in decision.checks[-1].sentence


@pytest.mark.parametrize("text", ["import no_such_module", "def check_latency(facts): ..."])
def test_a_file_of_checks_that_cannot_be_used_is_named(write_own_checks, text):
    with pytest.raises(UserError, match=r"gate_checks\.py .*`make deploy`"):
        decide(GOOD, LIMITS, write_own_checks(text))


def holdout_of_tenants(seed: int, worse: float = 0.0, least: int = 5) -> tuple:
    """40 tenants of 5 to 200 rows, and two models with equal errors; four tenants may have worse."""
    rng = np.random.default_rng(seed)
    rows = np.exp(rng.uniform(np.log(least), np.log(200), 40)).astype(int)
    place = np.repeat(np.arange(40), rows)
    odds = rng.normal(-1.8, 1.2, len(place))
    label = rng.random(len(place)) < expit(odds)
    candidate, champion = (expit(odds + rng.normal(0, 1, len(place))) for _ in range(2))
    candidate = expit(logit(candidate) + worse * (place < 4))
    names = np.array([f"shop_{one:02}" for one in range(40)], dtype=object)
    return names[place], label, candidate, champion


def test_a_candidate_that_got_worse_for_the_tail_of_tenants_is_refused_and_the_worst_are_named():
    compared = compare_tenants(*holdout_of_tenants(1, worse=3.0, least=60))

    refused = failed(replace(GOOD, tenants=compared, tenants_against="champion"))

    assert list(refused) == ["no_tenant_tail_falls"]
    assert (
        "against the champion in the worst tenth of 40 tenants" in refused["no_tenant_tail_falls"]
    )
    named = re.findall(r"(shop_\d+) \+0", refused["no_tenant_tail_falls"])
    assert len(named) == 3 and set(named) <= {"shop_00", "shop_01", "shop_02", "shop_03"}


def test_noise_in_small_tenants_does_not_shut_the_gate():
    tails = [find_tail(compare_tenants(*holdout_of_tenants(seed))) for seed in range(200)]

    assert np.mean([tail.low > LIMITS["tenant_drop"] for tail in tails]) <= 0.05


def test_a_loss_is_shrunk_towards_the_mean_of_all_the_more_the_fewer_rows_it_has():
    others = [
        {"tenant": f"t{place}", "rows": 100, "loss": 0.1 * (-1) ** place, "error": 0.02}
        for place in range(20)
    ]
    few, many = ({"tenant": name, "rows": 9, "loss": 0.4} for name in ("few", "many"))

    worst = dict(find_tail([*others, few | {"error": 0.4}, many | {"error": 0.02}]).worst)

    assert worst["many"] > 0.35
    assert worst.get("few", 0) < 0.15


def test_rows_of_one_person_count_as_one_for_the_error_of_a_tenant():
    tenant, label, *scores = holdout_of_tenants(2, least=100)
    person = np.arange(len(tenant)) // 4
    repeated = [np.repeat(values, 4) for values in (tenant, label, *scores)]

    (once, *_), (again, *_) = (
        compare_tenants(tenant, label, *scores),
        compare_tenants(*repeated, np.repeat(np.arange(len(tenant)), 4)),
    )

    assert again["loss"] == pytest.approx(once["loss"])
    assert again["error"] == pytest.approx(once["error"], rel=0.02)
    assert compare_tenants(tenant, label, *scores, person)[0]["loss"] == once["loss"]


@pytest.mark.parametrize("count", [0, 9])
def test_the_tail_of_few_tenants_is_not_compared(count):
    assert not failed(replace(GOOD, tenants=tenants(5.0, count)))
