"""Whether a candidate may serve. Closed by default: a check without a figure or without a limit fails."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from operator import ge, gt, le
from typing import Any

from jollyboat.training.estimators import BASELINE

Interval = Mapping[str, float | None]

# the checks, and what to do where one fails
NEXT_STEPS = {
    "beats_the_baseline": "Add features or days of logs, then `make data train`.",
    "not_worse_than_champion": "The champion stays. Compare both runs' reports; train on more days, or widen "
    "champion_margin under [gate] in project.toml.",
    "no_segment_falls": "Look at that segment in the run's report: a feature that tells it apart may help; then "
    "`make data train`.",
    "calibration": "A probability does not mean what it says: look at the calibration curve in the run's report. Has "
    "the rate of the outcome moved between train and holdout? Then `make data train` on newer days.",
    "behaves": "Mend the feature or the candidate that does this, then `make data train`; where the case is wrong, "
    "mend ml/behaviour.json.",
    "no_feature_is_too_good": "Does it know what happens after the point? Then take it out of dbt's features_at_point "
    "and `make data train`; if it is honest, raise feature_auc under [gate] in project.toml.",
    "not_too_good": "Look for a feature that knows what happens after the point, first among those that weigh most; if "
    "it is honest, raise model_auc under [gate] in project.toml.",
    "no_row_of_the_past_returns": "Are sessions repeated under new ids in data/raw? Mend their staging model, then "
    "`make data train`.",
    "serves_as_trained": "A feature is not the same at its point: it must come from events_at_point and lookups only, "
    "or it has seen what came later. Mend dbt's features_at_point, then `make data train`.",
    "smoke": "Mend what the server says, then `make deploy`.",
    "latency": "Is the machine busy? Then `make deploy` again; else leave out slow features, or raise latency_ms under "
    "[gate] in project.toml.",
    "memory": "Take a smaller model or smaller lookups, or raise memory_mb under [gate] in project.toml.",
    "bundle_size": "Take a smaller model, or raise bundle_mb under [gate] in project.toml.",
    "training_time": "Is the machine busy? Else take fewer trials or rounds, or raise training_seconds under [gate] in "
    "project.toml.",
}

NO_BASELINE = 'No baseline was trained to compare with: name "baseline" under [train] candidates, then `make train deploy`.'


@dataclass(frozen=True)
class Check:
    """One question to the candidate; `sentence` says what was found, and what to do next where it failed."""

    name: str
    passed: bool
    figure: float | None
    limit: float | None
    sentence: str


@dataclass(frozen=True)
class Decision:
    """All checks; passed when each of them did."""

    passed: bool
    checks: list[Check]

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Facts:
    """What is known about the candidate. A fact that is left out is not known, and shuts the gate.

    Intervals are those of `evaluate.difference`, segments those of `segments.by_segment`, all on the holdout.
    """

    candidate: str
    champion: str | None  # its version; None says that there is none yet
    against_baseline: Interval | None = None
    against_champion: Interval | None = None
    champion_silence: str = ""  # why the champion cannot be asked about this holdout
    segments: list[dict[str, Any]] | None = None
    champion_segments: list[dict[str, Any]] | None = (
        None  # the same with the champion in the baseline's place
    )
    calibration_error: float | None = None
    label_rate: float | None = (
        None  # of the holdout: with a rare outcome a small error is a large one
    )
    calibration_chance: float | None = (
        None  # what a perfect model's calibration error stays below 95 times of 100
    )
    misbehaving: list[str] | None = None  # a sentence for each behavioural case that failed
    leaks: Mapping[str, Any] | None = None  # of jollyboat.training.leak
    roc_auc: float | None = None
    differing: Mapping[str, int] | None = (
        None  # by feature, how many values are not the same online
    )
    smoke_passed: bool | None = None
    smoke_sentence: str = ""
    p99_ms: float | None = None
    memory_mb: float | None = None
    bundle_mb: float | None = None
    training_seconds: float | None = None


def decide(facts: Facts, limits: Mapping[str, float]) -> Decision:
    """The decision on a candidate; `limits` is the section [gate] of project.toml."""
    margin, (drop, worst) = limits.get("champion_margin"), _worst_segment(facts)
    baseline_lead, champion_lead = facts.against_baseline or {}, facts.against_champion or {}
    is_baseline, is_first = facts.candidate == BASELINE, facts.champion is None
    off, chance = limits.get("calibration_error"), facts.calibration_chance
    off = off and max(min(off, (facts.label_rate or 1) / 2), math.inf if chance is None else chance)
    leaks = facts.leaks or {}
    best, auc = next(
        iter(leaks.get("features", {}).items()), ("no feature", 0.5 if facts.leaks else None)
    )
    again = facts.leaks and leaks["shared_rows"] - leaks["shared_by_chance"]
    lead_over_champion = f"Average precision against champion {facts.champion}'s on this holdout: {_lead(champion_lead)}."
    judged = {
        "beats_the_baseline": (0 if is_baseline else baseline_lead.get("low"), gt, 0),
        "not_worse_than_champion": (
            0 if is_first else champion_lead.get("low"),
            ge,
            margin and -margin,
        ),
        "no_segment_falls": (drop, le, limits.get("segment_drop")),
        "calibration": (facts.calibration_error, le, off),
        "behaves": (None if facts.misbehaving is None else len(facts.misbehaving), le, 0),
        "no_feature_is_too_good": (auc, le, limits.get("feature_auc")),
        "not_too_good": (facts.roc_auc, le, limits.get("model_auc")),
        "no_row_of_the_past_returns": (again, le, limits.get("shared_rows")),
        "serves_as_trained": (
            None if facts.differing is None else sum(facts.differing.values()),
            le,
            0,
        ),
        "smoke": (facts.smoke_passed, ge, 1),
        "latency": (facts.p99_ms, le, limits.get("latency_ms")),
        "memory": (facts.memory_mb, le, limits.get("memory_mb")),
        "bundle_size": (facts.bundle_mb, le, limits.get("bundle_mb")),
        "training_time": (facts.training_seconds, le, limits.get("training_seconds")),
    }
    found = {
        "beats_the_baseline": "The best candidate is the baseline itself, so no model is worth shipping yet."
        if is_baseline
        else f"Average precision against the baseline's: {_lead(baseline_lead)}.",
        "not_worse_than_champion": "There is no champion yet." if is_first else lead_over_champion,
        "no_segment_falls": worst,
        "calibration": f"Probabilities are off by {_number(facts.calibration_error)} on average; a perfect model's are "
        f"by up to {_number(chance)} on as many rows, by chance.",
        "behaves": " ".join(facts.misbehaving or ["Every behavioural case holds."]),
        "no_feature_is_too_good": f"{best} alone ranks the outcomes with a ROC AUC of {_number(auc)}.",
        "not_too_good": f"The model ranks the outcomes with a ROC AUC of {_number(facts.roc_auc)}.",
        "no_row_of_the_past_returns": f"{_percent(leaks.get('shared_rows'))} of the holdout's rows stand in train or "
        f"validation, value for value; {_percent(leaks.get('shared_by_chance'))} do by chance.",
        "serves_as_trained": "; ".join(
            f"{n} values of {name}" for name, n in (facts.differing or {"all features": 0}).items()
        )
        + " differ between the server and the snapshot.",
        "smoke": facts.smoke_sentence
        or f"The server gave {'the' if facts.smoke_passed else 'no'} expected answer.",
        "latency": f"99 of 100 predictions took at most {_number(facts.p99_ms)} ms, features included.",
        "memory": f"The server took at most {_number(facts.memory_mb)} MB.",
        "bundle_size": f"The bundle takes {_number(facts.bundle_mb)} MB.",
        "training_time": f"Training took {_number(facts.training_seconds)} s.",
    }
    silent = {
        "not_worse_than_champion": facts.champion_silence,
        "beats_the_baseline": "" if baseline_lead else NO_BASELINE,
    }
    checks = [_check(name, *judged[name], found[name], silent.get(name)) for name in NEXT_STEPS]
    return Decision(all(check.passed for check in checks), checks)


def _check(
    name: str,
    figure: float | None,
    holds: Callable[[float, float], bool],
    limit: float | None,
    found: str,
    silence: str | None,
) -> Check:
    if limit is None:
        return Check(
            name,
            False,
            figure,
            None,
            f"{found} Its limit is missing under [gate] in project.toml: add it.",
        )
    if figure is None or not math.isfinite(figure) or not math.isfinite(limit):
        again = f"There is no figure for {name.replace('_', ' ')}, so it fails: run `make train deploy` again."
        return Check(name, False, None, limit if math.isfinite(limit) else None, silence or again)
    passed = holds(figure, limit)
    return Check(
        name,
        passed,
        float(figure),
        float(limit),
        found if passed else f"{found} {NEXT_STEPS[name]}",
    )


def _worst_segment(facts: Facts) -> tuple[float | None, str]:
    """The surest fall of a segment: by how much, 95 times of 100 at least, its average precision is below the
    baseline's or the champion's.
    """
    if facts.segments is None:
        return None, "No segment was judged."
    both = {"the baseline": facts.segments, "the champion": facts.champion_segments or []}
    judged = [
        (each["against_baseline"], each, whom)
        for whom, segments in both.items()
        for each in segments
        if each.get("against_baseline", {}).get("high") is not None
    ]
    if not judged:
        is_baseline = facts.candidate == BASELINE
        return (
            0.0,
            "The baseline is not compared with itself."
            if is_baseline
            else "Every segment is too small to judge.",
        )
    lead, worst, whom = min(judged, key=lambda each: each[0]["high"])
    where = f"{worst['segment']} {worst['value']} does worst against {whom}"
    count = len({(each["segment"], each["value"]) for _, each, _ in judged})
    return -lead["high"], f"Of {count} segments {where}: {_lead(lead)}."


def _lead(lead: Interval) -> str:
    if not lead or None in lead.values():
        return "unknown"
    return f"{lead['value']:+.3f} (95 % of resamples: {lead['low']:+.3f} to {lead['high']:+.3f})"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.2g} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
