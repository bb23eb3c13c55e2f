"""Whether a candidate may serve. Closed by default: a check without a figure or without a limit fails."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Limits = Mapping[str, float]
Interval = Mapping[str, float | None]


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

    @property
    def failed(self) -> list[Check]:
        """The checks that shut the gate."""
        return [check for check in self.checks if not check.passed]

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Facts:
    """What is known about the candidate. A fact that is left out is not known, and shuts the gate.

    Intervals are those of `ml.evaluate.difference`, slices those of `ml.evaluate.by_slice`, all on the holdout.
    """

    candidate: str
    champion: str | None  # its version; None says that there is none yet
    against_rule: Interval | None = None
    against_champion: Interval | None = None
    slices: list[dict[str, Any]] | None = None
    rule_slices: list[dict[str, Any]] | None = None
    calibration_error: float | None = None
    values_differing: int | None = None  # online features and probabilities that differ from the snapshot's
    smoke_passed: bool | None = None
    smoke_sentence: str = ""
    p99_ms: float | None = None


def decide(facts: Facts, limits: Limits) -> Decision:
    """The decision on a candidate; `limits` is the section [gate] of project.toml.

    Read: champion_margin, slice_drop, calibration_error, latency_ms.
    """
    checks = [check(facts, limits) for check in CHECKS]
    return Decision(all(check.passed for check in checks), checks)


def choose(metrics_on_validation: Mapping[str, Mapping[str, Interval]]) -> str:
    """The candidate with the best average precision; they come in the ladder's order, and ties go to the simpler."""
    best, best_precision = None, -math.inf
    for name, figures in metrics_on_validation.items():
        precision = figures["average_precision"]["value"]
        if precision is not None and precision > best_precision:
            best, best_precision = name, precision
    if best is None:
        raise ValueError(
            "No candidate has an average precision on validation: name some under [train] candidates in project.toml."
        )
    return best


def beats_the_rule(facts: Facts, limits: Limits) -> Check:
    """The lower end of the interval of its lead over the rule is above 0."""
    if facts.candidate == "rule":
        sentence = (
            "The best candidate is the rule itself, so no model is worth shipping yet: "
            "add features or days of logs, then `make data train`."
        )
        return Check("beats_the_rule", False, 0.0, 0.0, sentence)
    return _check(
        "beats_the_rule",
        (facts.against_rule or {}).get("low"),
        0.0,
        operator.gt,
        f"Average precision against the rule's: {_interval(facts.against_rule)}.",
        "Too little to prefer it to the rule: add features or days of logs, then `make data train`.",
    )


def not_worse_than_champion(facts: Facts, limits: Limits) -> Check:
    """The lower end of the interval of its lead over the champion is above minus the margin."""
    margin = limits.get("champion_margin")
    limit = None if margin is None else -margin
    if facts.champion is None:
        return Check("not_worse_than_champion", True, None, limit, "There is no champion yet.")
    return _check(
        "not_worse_than_champion",
        (facts.against_champion or {}).get("low"),
        limit,
        operator.gt,
        f"Average precision against champion {facts.champion}'s on this holdout: {_interval(facts.against_champion)}.",
        "The champion stays. Compare both runs' reports; train on more days, or widen champion_margin under [gate] in "
        "project.toml.",
    )


def no_slice_falls(facts: Facts, limits: Limits) -> Check:
    """In no slice that is large enough to judge is its average precision lower than the rule's by more than allowed."""
    limit = limits.get("slice_drop")
    if facts.slices is None or facts.rule_slices is None:
        return _check("no_slice_falls", None, limit, operator.le, "The slices were not judged.", "")
    own = {(entry["slice"], entry["value"]): entry["average_precision"] for entry in facts.slices}
    judged = [entry for entry in facts.rule_slices if not entry["too_small"]]
    if not judged:
        return _check("no_slice_falls", 0.0, limit, operator.le, "Every slice is too small to judge.", "")
    if any(own.get((entry["slice"], entry["value"])) is None for entry in judged):
        return _check("no_slice_falls", None, limit, operator.le, "A slice was not judged.", "")
    drops = {
        f"{entry['slice']} {entry['value']}": entry["average_precision"] - own[entry["slice"], entry["value"]]
        for entry in judged
    }
    where = max(drops, key=lambda name: drops[name])
    return _check(
        "no_slice_falls",
        drops[where],
        limit,
        operator.le,
        f"Of {len(drops)} slices {where} does worst: average precision {-drops[where]:+.3f} against the rule's.",
        f"Look at {where} in the run's report: a feature that tells it apart may help; then `make data train`.",
    )


def calibration(facts: Facts, limits: Limits) -> Check:
    """Its probabilities are no further from the rates, on average, than allowed."""
    return _check(
        "calibration",
        facts.calibration_error,
        limits.get("calibration_error"),
        operator.le,
        f"Probabilities are off by {_number(facts.calibration_error)} on average.",
        "A probability does not mean what it says: look at the calibration curve in the run's report. Has the rate of "
        "the outcome moved between train and holdout? Then `make data train` on newer days.",
    )


def serves_as_trained(facts: Facts, limits: Limits) -> Check:
    """Online features and probabilities equal those of the snapshot, value for value."""
    return _check(
        "serves_as_trained",
        facts.values_differing,
        0,
        operator.le,
        f"{_number(facts.values_differing)} values differ between the server and the snapshot.",
        "A feature is not the same online: it must come from events_at_point and lookups only. Mend dbt's "
        "features_at_point, then `make data train`.",
    )


def smoke(facts: Facts, limits: Limits) -> Check:
    """The real server started over the bundle and gave the expected answer."""
    usual = "The server gave the expected answer." if facts.smoke_passed else "The server gave no expected answer."
    return _check(
        "smoke",
        None if facts.smoke_passed is None else float(facts.smoke_passed),
        1.0,
        operator.eq,
        facts.smoke_sentence or usual,
        "Mend what the server says, then `make deploy`.",
    )


def latency(facts: Facts, limits: Limits) -> Check:
    """99 of 100 predictions, features included, take no longer than allowed."""
    return _check(
        "latency",
        facts.p99_ms,
        limits.get("latency_ms"),
        operator.le,
        f"99 of 100 predictions took at most {_number(facts.p99_ms)} ms.",
        "Is the machine busy? Then `make deploy` again; else leave out slow features, or raise latency_ms under [gate] "
        "in project.toml.",
    )


CHECKS: tuple[Callable[[Facts, Limits], Check], ...] = (
    beats_the_rule,
    not_worse_than_champion,
    no_slice_falls,
    calibration,
    serves_as_trained,
    smoke,
    latency,
)


def _check(
    name: str,
    figure: float | None,
    limit: float | None,
    holds: Callable[[float, float], bool],
    found: str,
    next_step: str,
) -> Check:
    figure, limit = _known(figure), _known(limit)
    if limit is None:
        return Check(name, False, figure, None, f"{found} Its limit is missing under [gate] in project.toml: add it.")
    if figure is None:
        sentence = f"There is no figure for {name.replace('_', ' ')}, so it fails: run `make train deploy` again."
        return Check(name, False, None, limit, sentence)
    passed = holds(figure, limit)
    return Check(name, passed, figure, limit, found if passed else f"{found} {next_step}".strip())


def _known(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(number)


def _interval(lead: Interval | None) -> str:
    if lead is None or any(lead.get(key) is None for key in ("value", "low", "high")):
        return "unknown"
    return f"{lead['value']:+.3f} (95 % of resamples: {lead['low']:+.3f} to {lead['high']:+.3f})"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
