"""The library's checks, in the order of the gate's page: each has a name, a limit and a remedy."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import ge, gt, le

from jollyboat.gate.facts import Facts, Interval
from jollyboat.gate.tenant_tail import find_tail
from jollyboat.pages.terminal import format_count, format_percent
from jollyboat.training.estimators import BASELINE
from jollyboat.training.leak import format_auc, format_value

FEWEST_TENANTS = 10  # for a comparison of their tail
Limits = Mapping[str, float]
NO_BASELINE = (
    'No baseline was trained to compare with: add "{}" to candidates under [train] in '
    "project.toml, then run `make train deploy`."
)

FEW_OUTCOMES = "Fewer than two outcomes have no interval: add days of logs, then run `make data`."


@dataclass(frozen=True)
class Measurement:
    """A figure, its limit and a sentence with the figure; the check passes if `holds` is true."""

    figure: float | None
    limit: float | None
    sentence: str
    holds: Callable[[float, float], bool] = le
    missing: str = ""  # why there is no figure
    interval: Interval = field(default_factory=dict)  # of what the figure is an end of
    unit: str = ""  # where it is not the check's
    applies: bool = True  # False where there is nothing to judge, so that nothing can fail


@dataclass(frozen=True)
class LibraryCheck:
    """How a check measures a candidate, and what the reader does if it fails."""

    name: str
    measure: Callable[[Facts, Limits], Measurement]
    remedy: str
    unit: str
    comparison: str  # what is compared with what; {name} is a fact


CHECKS: list[LibraryCheck] = []


def _check(remedy: str, unit: str, comparison: str) -> Callable:
    def register(measure: Callable[[Facts, Limits], Measurement]) -> Callable:
        CHECKS.append(LibraryCheck(measure.__name__, measure, remedy, unit, comparison))
        return measure

    return register


@_check(
    "Add days of logs, then run `make data train deploy`, or lower min_outcomes under [gate] in "
    "project.toml.",
    "",
    "the rarer outcome of the holdout with the number that intervals need",
)
def enough_outcomes(facts: Facts, limits: Limits) -> Measurement:
    limit, counts = limits.get("min_outcomes"), (facts.positives, facts.negatives)
    if None in counts[: 1 if facts.is_ranking else 2]:
        return Measurement(None, limit, "Nobody counted the holdout's outcomes.")
    if facts.is_ranking:
        sentence = f"The holdout has {facts.positives:,} points with a next item"
        sentence = f"{sentence}; {_number(limit)} are needed."
        return Measurement(facts.positives, limit, sentence, ge, unit="points")
    sentence = (
        f"The holdout has {facts.positives:,} {facts.rows} with the outcome and "
        f"{facts.negatives:,} without it; {_number(limit)} of each are needed."
    )
    return Measurement(min(counts), limit, sentence, ge, unit=facts.rows)


@_check(
    "Add features or days of logs, then run `make data train`.",
    "",
    "{candidate} less {baseline}, on the same rows of the holdout",
)
def beats_the_baseline(facts: Facts, limits: Limits) -> Measurement:
    if facts.candidate == facts.baseline:
        sentence = "The best candidate is the baseline itself, so no model is worth deploying yet."
        return Measurement(0, 0, sentence, gt)
    lead = facts.against_baseline or {}
    name = facts.baseline if facts.is_ranking else "the baseline"
    sentence = f"Lead in {facts.measure} over {name}: {_format_lead(lead)}."
    missing = f"{sentence} {FEW_OUTCOMES}" if lead else NO_BASELINE.format(facts.baseline)
    return Measurement(lead.get("low"), 0, sentence, gt, missing, lead, facts.measure)


@_check(
    "The champion stays. Compare both runs' reports. Train on more days, or raise "
    "champion_margin under [gate] in project.toml.",
    "",
    "{candidate} less the champion, on the same rows of the holdout",
)
def not_worse_than_champion(facts: Facts, limits: Limits) -> Measurement:
    margin = limits.get("champion_margin")
    limit = None if margin is None else -margin
    if facts.champion is None:
        return Measurement(0, limit, "There is no champion yet.", ge, applies=False)
    lead = facts.against_champion or {}
    low, high = lead.get("low"), lead.get("high")
    sentence = f"Lead in {facts.measure} over champion {facts.champion}: {_format_lead(lead)}."
    missing = f"{sentence} {FEW_OUTCOMES}" if lead else facts.champion_silence
    shown = {"interval": lead, "unit": facts.measure}
    if None in (low, high, margin) or low >= limit:
        return Measurement(low, limit, sentence, ge, missing, **shown)
    sentence += f" At this size the check sees differences of {(high - low) / 2:.3f} or more."
    if not facts.is_newer:
        return Measurement(low, limit, sentence, ge, **shown)
    # Few outcomes have a wide interval, and with the margin alone a small shop never retrains.
    sentence += " It learned from newer sessions, so it passes unless it is significantly worse."
    return Measurement(high, 0, sentence, ge, **shown)


@_check(
    "Remove the cause, then run `make data train`, which makes another version. If this one is "
    'right, run `make deploy FORCE="the reason"`.',
    "rollbacks",
    "this version with the history of the champions",
)
def was_not_rolled_back(facts: Facts, limits: Limits) -> Measurement:
    sentence = f"This version was {facts.rolled_back or 'never rolled back'}."
    figure = None if facts.rolled_back is None else int(facts.rolled_back != "")
    return Measurement(figure, 0, sentence)


@_check(
    "Read that segment in the run's report. Add a feature that describes it, then run "
    "`make data train`.",
    "average precision lost",
    "{candidate} with the baseline and the champion, in each segment",
)
def no_segment_falls(facts: Facts, limits: Limits) -> Measurement:
    limit = limits.get("segment_drop")
    if facts.segments is None:
        return Measurement(None, limit, "No segment was judged.")
    groups = {"baseline": facts.segments, "champion": facts.champion_segments or []}
    judged = [
        (segment["against_baseline"], segment, opponent)
        for opponent, segments in groups.items()
        for segment in segments
        if segment.get("against_baseline", {}).get("high") is not None
    ]
    if not judged:
        is_baseline = facts.candidate == BASELINE
        too_small = "Every segment is too small to judge."
        sentence = "The baseline is not compared with itself." if is_baseline else too_small
        return Measurement(0.0, limit, sentence, applies=False)
    lead, worst, opponent = min(judged, key=lambda each: each[0]["high"])
    count = len({(segment["segment"], segment["value"]) for _, segment, _ in judged})
    where = f"Of {format_count(count, 'segment')}, closest to a loss against the {opponent}"
    sentence = f"{where}: {worst['segment']} = {worst['value']}, {_format_lead(lead)}."
    loss = {"value": -lead["value"], "low": -lead["high"], "high": -lead["low"]}
    return Measurement(loss["low"], limit, sentence, interval=loss)


@_check(
    "Read these tenants in the run's report, give them a model of their own, or raise "
    "tenant_drop under [gate] in project.toml. Then run `make train deploy`.",
    "log loss per row",
    "{candidate} less the {tenants_against}, in the worst tenth of tenants",
)
def no_tenant_tail_falls(facts: Facts, limits: Limits) -> Measurement:
    """The figure is the favourable end of the 95 % interval of the worst tenth's mean loss."""
    limit = limits.get("tenant_drop")
    if facts.tenants is None:
        return Measurement(None, limit, "No tenant was compared.")
    if facts.candidate == BASELINE == facts.tenants_against:
        sentence = "The baseline is not compared with itself."
        return Measurement(0.0, limit, sentence, applies=False)
    if len(facts.tenants) < FEWEST_TENANTS:
        count = f"Tenants in the holdout: {len(facts.tenants)}"
        sentence = f"{count}; {FEWEST_TENANTS} are needed to compare a tail."
        return Measurement(0.0, limit, sentence, applies=False)
    tail = find_tail(facts.tenants)
    names = ", ".join(f"{tenant} {loss:+.3f}" for tenant, loss in tail.worst)
    sentence = (
        f"Log loss against the {facts.tenants_against} in the worst tenth of "
        f"{len(facts.tenants)} tenants: {tail.value:+.3f} per row (95 % interval {tail.low:+.3f} "
        f"to {tail.high:+.3f}), shrunk. The worst: {names}."
    )
    loss = {"value": tail.value, "low": tail.low, "high": tail.high}
    return Measurement(tail.low, limit, sentence, interval=loss)


@_check(
    "Look at the calibration curve in the run's report. If the rate of the outcome changed "
    "between train and holdout, run `make data train` on newer days.",
    "mean gap",
    "predicted probabilities with the rate of the outcome, on the holdout",
)
def calibration(facts: Facts, limits: Limits) -> Measurement:
    limit, chance = limits.get("calibration_error"), facts.calibration_chance
    if limit:
        # With a rare outcome a small error is a large one; with few rows chance explains more.
        limit = min(limit, (facts.label_rate or 1) / 2)
        limit = max(limit, math.inf if chance is None else chance)
    sentence = (
        f"Calibration error: {_number(facts.calibration_error)}. On as many rows a perfect model "
        f"has up to {_number(chance)} by chance."
    )
    return Measurement(facts.calibration_error, limit, sentence)


@_check(
    "Fix the feature or the candidate, then run `make data train`. If the case is wrong, fix it "
    "in its file below ml/behaviour.",
    "failed cases",
    "the model's answers to a session and to the same session changed",
)
def behaves(facts: Facts, limits: Limits) -> Measurement:
    failures = facts.misbehaving
    passed = f"{facts.behaving} behavioural cases pass." if facts.behaving else "No case is judged."
    sentence = " ".join([*(failures or [passed]), *facts.skipped_cases])
    figure = None if failures is None else len(failures)
    return Measurement(figure, 0, sentence, applies=bool(facts.behaving or failures))


@_check(
    "If it contains what happens after the point, remove it from dbt's features_at_point and run "
    "`make data train`. If it is honest, raise feature_auc under [gate] in project.toml.",
    "ROC AUC",
    "the best single feature with the outcome",
)
def no_feature_is_too_good(facts: Facts, limits: Limits) -> Measurement:
    features = (facts.leaks or {}).get("features", {})
    name, auc = next(iter(features.items()), ("", 0.5 if facts.leaks else None))
    sentence = format_auc(facts.leaks, name) if name else "There is no feature to judge."
    return Measurement(auc, limits.get("feature_auc"), sentence)


@_check(
    "Find what stamps this value on a session. Remove the feature and those collinear with it, "
    'then run `make data train deploy`. If it is honest, run `make deploy FORCE="the reason"`.',
    "values that a continuous feature repeats",
    "each value of a feature with the outcome",
)
def no_value_tells_the_outcome(facts: Facts, limits: Limits) -> Measurement:
    values = (facts.leaks or {}).get("values")
    sentences = [format_value(facts.leaks, value) for value in values or ()]
    sentence = " ".join(sentences or ["No value of a feature excludes or contains the outcomes."])
    figure = None if values is None else sum(value["is_spike"] for value in values)
    return Measurement(figure, 0, sentence)


@_check(
    "Look for a feature that contains what happens after the point; start with the most important "
    "ones. If all are honest, raise model_auc under [gate] in project.toml.",
    "ROC AUC",
    "{candidate} with the outcome, on the holdout",
)
def not_too_good(facts: Facts, limits: Limits) -> Measurement:
    sentence = f"The model ranks the outcomes with a ROC AUC of {_number(facts.roc_auc)}."
    return Measurement(facts.roc_auc, limits.get("model_auc"), sentence)


@_check(
    "If data/raw repeats sessions under new ids, fix their staging model, then run "
    "`make data train`.",
    "share of rows",
    "rows of the holdout with those of train and validation, beyond chance",
)
def no_row_of_the_past_returns(facts: Facts, limits: Limits) -> Measurement:
    leaks = facts.leaks or {}
    shared, by_chance = leaks.get("shared_rows"), leaks.get("shared_by_chance")
    figure = shared - by_chance if leaks else None
    sentence = (
        f"{format_percent(shared)} of the holdout's rows equal a row of train or validation in "
        f"every value; chance explains {format_percent(by_chance)}."
    )
    return Measurement(figure, limits.get("shared_rows"), sentence)


@_check(
    "A feature may read events_at_point and lookups only. If it reads anything else, or what came "
    "later, fix dbt's features_at_point, then run `make data train`.",
    "values",
    "features that the server computes with those of the snapshot",
)
def serves_as_trained(facts: Facts, limits: Limits) -> Measurement:
    differing = facts.differing or {"all features": 0}
    counts = "; ".join(f"{count} values of {name}" for name, count in differing.items())
    figure = None if facts.differing is None else sum(facts.differing.values())
    return Measurement(figure, 0, f"{counts} differ between the server and the snapshot.")


@_check(
    "Fix what the server reports, then run `make deploy` again.",
    "",
    "the server's answer with the expected one",
)
def smoke(facts: Facts, limits: Limits) -> Measurement:
    default = f"The server gave {'the' if facts.smoke_passed else 'no'} expected answer."
    return Measurement(facts.smoke_passed, 1, facts.smoke_sentence or default, ge)


@_check(
    "If the machine is busy, run `make deploy` again. Otherwise remove slow features, or raise "
    "latency_ms under [gate] in project.toml.",
    "ms",
    "the 99th percentile of the server's responses with the limit",
)
def latency(facts: Facts, limits: Limits) -> Measurement:
    sentence = f"99 % of the predictions took at most {_number(facts.p99_ms)} ms, with features."
    return Measurement(facts.p99_ms, limits.get("latency_ms"), sentence)


@_check(
    "Train a smaller model, make lookups smaller, or raise memory_mb under [gate] in project.toml.",
    "MB",
    "the server's memory with the limit",
)
def memory(facts: Facts, limits: Limits) -> Measurement:
    sentence = f"The server used at most {_number(facts.memory_mb)} MB."
    return Measurement(facts.memory_mb, limits.get("memory_mb"), sentence)


@_check(
    "Train a smaller model, or raise bundle_mb under [gate] in project.toml.",
    "MB",
    "the size of the bundle with the limit",
)
def bundle_size(facts: Facts, limits: Limits) -> Measurement:
    sentence = f"The bundle has {_number(facts.bundle_mb)} MB."
    return Measurement(facts.bundle_mb, limits.get("bundle_mb"), sentence)


@_check(
    "If the machine is busy, run `make train` again. Otherwise set fewer trials or rounds, or "
    "raise training_seconds under [gate] in project.toml.",
    "s",
    "the training time of all candidates with the limit",
)
def training_time(facts: Facts, limits: Limits) -> Measurement:
    sentence = f"Training took {_number(facts.training_seconds)} s."
    return Measurement(facts.training_seconds, limits.get("training_seconds"), sentence)


@_check(
    "Improve the candidate, or agree on another target under [questions.<name>.targets] in "
    "project.toml.",
    "targets missed",
    "the targets of project.toml with the figures of the holdout",
)
def meets_targets(facts: Facts, limits: Limits) -> Measurement:
    missed = [each for each in facts.targets or [] if not each.is_met]
    if not missed:
        count = len(facts.targets or [])
        return Measurement(0, 0, f"All of {count} targets are met.")
    parts = (
        f"{each.name} is {_number(each.figure)}, and should be "
        f"{'at most' if each.is_most else 'at least'} {_number(each.limit)}"
        for each in missed
    )
    return Measurement(len(missed), 0, f"Missed: {'; '.join(parts)}.")


# Those that apply to a ranking, which has no probability and no segments.
RANKING_CHECKS = [
    check
    for check in CHECKS
    if check.measure
    in (
        enough_outcomes,
        beats_the_baseline,
        not_worse_than_champion,
        was_not_rolled_back,
        serves_as_trained,
        smoke,
        latency,
        memory,
        bundle_size,
        meets_targets,
        training_time,
    )
]


def _format_lead(lead: Interval) -> str:
    if not lead or None in lead.values():
        return "unknown"
    return f"{lead['value']:+.3f} (95 % interval {lead['low']:+.3f} to {lead['high']:+.3f})"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
