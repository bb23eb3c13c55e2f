"""The monitor's checks of a champion on live data, and the decision to retrain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, takewhile
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, poisson

from jollyboat.monitoring.drift import SEASON_MARGIN, Group, Series, watch
from jollyboat.pages.terminal import format_count
from jollyboat.training.evaluate import Ranking
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.segments import FEW_POSITIVES

ALL = "all"
RESAMPLES, FEW_AT_K, FEWEST_A_DAY, MOST_TENANTS = 200, 5, 10, 20
OLD_EXPORT_HOURS = 30 * 24
FINE, ALARM, UNKNOWN = "fine", "alarm", "cannot say yet"
Limits = Mapping[str, Any]
ByK = Mapping[int, pd.DataFrame]  # rows by their number of events
Pairs = Sequence[tuple[pd.DataFrame, pd.DataFrame]]  # live and holdout rows of one k


@dataclass(frozen=True)
class Facts:
    """The monitor's input. Frames have `tenant_id` and `day`: 24 hours each, the newest is 0.

    - reference, live: features of sessions in training and since; reference_scores and live_scores
      have their `score`.
    - holdout, answers: event_count, probability, label (NaN: not known yet).
    - volumes: session_count by day; latency: p99_ms of answers by day.
    - arrivals: record_count and quarantined_count by `source` and its own day, without a tenant.
    """

    days: Sequence[int]  # the live days, oldest first
    schema: FeatureSchema
    reference: pd.DataFrame
    live: pd.DataFrame
    reference_scores: pd.DataFrame
    live_scores: pd.DataFrame
    holdout: pd.DataFrame
    answers: pd.DataFrame
    volumes: pd.DataFrame
    arrivals: pd.DataFrame
    latency: pd.DataFrame
    age_hours: float
    days_since_training: float
    last_arrival: str = ""  # of the newest event, as AS_OF takes it
    owners: Sequence[str] = ()  # tenants with a champion of their own


@dataclass(frozen=True)
class Check:
    """The result of one check.

    `history` has its figure by live day, `alarm_days` the number of the newest days in a row on
    which that figure was beyond the limit, as it is now.
    """

    name: str
    tenant: str
    subject: str
    state: str
    value: float | None
    limit: float | None
    sentence: str
    history: tuple[float | None, ...] = ()
    alarm_days: int = 0

    @property
    def key(self) -> str:
        """The id of this check's incidents."""
        return f"{self.name}/{self.tenant}/{self.subject}"


def judge(facts: Facts, limits: Limits) -> tuple[list[Check], dict[str, Any]]:
    """All checks and the retraining decision; `limits` is [monitor] with latency_ms of [gate]."""
    by_size = facts.reference["tenant_id"].value_counts().index
    watched = list(dict.fromkeys([*by_size[:MOST_TENANTS], *facts.owners]))
    tenants = [ALL, *(watched if len(watched) > 1 else [])]
    groups = []
    for tenant in tenants:
        groups.append(Group(tenant, _of(tenant, facts.reference), _of(tenant, facts.live)))
        scores = (_of(tenant, rows) for rows in (facts.reference_scores, facts.live_scores))
        groups.append(Group(tenant, *scores))
    series = watch(groups, facts.days, limits)
    quality = _quality(facts, tenants, limits)
    small = [volume_check(facts, tenant, limits) for tenant in by_size if tenant not in watched]
    checks = [
        *quality,
        *_drift_checks(series, len(facts.days)),
        *(volume_check(facts, tenant, limits) for tenant in tenants),
        *(check for check in small if check.state == ALARM),
        *health_checks(facts, limits),
        *_unknown_categories(facts, limits),
    ]
    return checks, decide_retraining(facts, series, quality, limits)


def health_checks(facts: Facts, limits: Limits) -> list[Check]:
    """The checks of data and server: freshness, quarantine and latency."""
    checks = _freshness, _quarantine, _latency
    return [check(facts, limits) for check in checks]


def quality_checks(facts: Facts, tenant: str, limits: Limits, day: int = 0) -> list[Check]:
    """Average precision and the rate of outcomes up to a day, against the holdout at the same k."""
    holdout, answers = _by_k(_of(tenant, facts.holdout)), _of(tenant, facts.answers)
    answers = answers[answers["day"].isin(facts.days) & (answers["day"] <= day)]
    labeled = answers[answers["label"].notna()]
    waiting = f"{format_count(len(answers) - len(labeled), 'answer')} without an outcome yet"
    days = [one for one in facts.days if one <= day]

    @cache
    def past(window: int) -> list[dict[str, Any]]:
        return _past(holdout, labeled, days, window)

    def history(window: int, figure: str) -> tuple[float | None, ...]:
        return tuple(figures.get(figure) for figures in past(window))

    windows = {}
    for window in limits["windows"]:
        figures = _compare(holdout, labeled[labeled["day"] > day - window])
        if figures["positives"] >= FEW_POSITIVES:
            windows[window] = figures
    if not windows:
        sentence = (
            f"{int(labeled['label'].sum())} outcomes are known, {waiting}. {FEW_POSITIVES} known "
            f"ones are needed, at numbers of events with {FEW_AT_K} or more each."
        )
        figures = {"average precision": "value", "rate of outcomes": "ratio"}
        longest = limits["windows"][-1]
        return [
            _unknown("quality", tenant, subject, None, sentence, history(longest, figure))
            for subject, figure in figures.items()
        ]
    alpha = limits["alpha"] / len(limits["windows"])
    window = min(windows, key=lambda window: windows[window]["z"])
    precision = _precision_check(tenant, windows[window], _span(window), alpha, waiting)
    checks = [replace(precision, history=history(window, "value"))]
    window = max(windows, key=lambda window: abs(windows[window]["rate_z"]))
    rate = _rate_check(tenant, windows[window], _span(window), alpha, limits["rate_ratio"])
    return [*checks, replace(rate, history=history(window, "ratio"))]


def _precision_check(
    tenant: str, figures: Mapping[str, Any], span: str, alpha: float, waiting: str
) -> Check:
    is_below = norm.cdf(figures["z"]) < alpha
    verdict = "significantly below" if is_below else "not significantly below"
    sentence = (
        f"{figures['value']:.3f} over {span} is {verdict} the holdout's at the same number of "
        f"events ({figures['low']:.3f} to {figures['high']:.3f}; {figures['positives']} outcomes, "
        f"{waiting})."
    )
    value, low = figures["value"], figures["low"]
    return _check("quality", tenant, "average precision", is_below, value, low, sentence)


def _rate_check(
    tenant: str, figures: Mapping[str, Any], span: str, alpha: float, limit: float
) -> Check:
    ratio = figures["ratio"]
    is_significant = 2 * norm.sf(abs(figures["rate_z"])) < alpha
    is_off = is_significant and not 1 / limit <= ratio <= limit
    sentence = (
        f"Over {span} there were {ratio:.2f} times the predicted number of outcomes, relative to "
        "the holdout."
    )
    limit = limit if ratio > 1 else 1 / limit
    return _check("quality", tenant, "rate of outcomes", is_off, ratio, limit, sentence)


def decide_retraining(
    facts: Facts, series: Sequence[Series], quality: Sequence[Check], limits: Limits
) -> dict[str, Any]:
    """{"retrain", "status", "reason"}: yes for a problem of some days, unless training was recent.

    A broken feature needs fixed data first: a new model would learn the fault. Problems of a
    tenant's own champion do not count, because training makes the shared model.
    """
    held, cool_down = limits["retrain_after_days"], limits["cool_down_days"]
    broken = sorted({one.feature for one in series if one.is_broken[-1]})
    if broken:
        names = ", ".join(broken[:5])
        reason = f"Fix {names} first: training now would learn the fault."
        return {"retrain": False, "status": "fix the data first", "reason": reason}
    drifted = {
        one.feature
        for one in series
        if len(one.psi) >= held
        and one.state["is_open"][-held:].all()
        and one.tenant not in facts.owners
    }
    problems = {
        "drift of": sorted(drifted)[:5],
        "quality:": _lasting_quality_alarms(facts, quality, limits),
    }
    texts = [f"{name} {', '.join(subjects)}" for name, subjects in problems.items() if subjects]
    if not texts:
        reason = f"No problem that training could fix has lasted {held} days."
        return {"retrain": False, "status": "not needed", "reason": reason}
    reason = f"For {held} days: {'; '.join(texts)}."
    age = facts.days_since_training
    if age < cool_down:
        reason += f" But the newest training data is {age:.1f} days old; {cool_down} must pass."
        return {"retrain": False, "status": "wait", "reason": reason}
    return {"retrain": True, "status": "train again", "reason": reason}


def _lasting_quality_alarms(facts: Facts, quality: Sequence[Check], limits: Limits) -> list[str]:
    """The quality alarms of the shared model that were alarms some days ago too."""
    now = [check for check in quality if check.state == ALARM and check.tenant not in facts.owners]
    if not now:
        return []
    tenants = sorted({check.tenant for check in quality})
    earlier = _quality(facts, tenants, limits, 1 - limits["retrain_after_days"])
    before = {check.key for check in earlier if check.state == ALARM}
    return [f"{check.subject} ({check.tenant})" for check in now if check.key in before]


def volume_check(facts: Facts, tenant: str, limits: Limits) -> Check:
    """Sessions of the newest day against the smallest and the largest day of training.

    A tenant has stopped if it has had no session for more days in a row than ever in training.
    """
    by_day = _of(tenant, facts.volumes).groupby("day")["session_count"].sum()
    trained = set(facts.reference["day"])
    before = by_day[by_day.index.isin(trained)].reindex(sorted(trained), fill_value=0)
    history = tuple(by_day.reindex(facts.days, fill_value=0).astype(float))
    if not history or before.empty or before.median() < FEWEST_A_DAY:
        sentence = "There are too few days or sessions."
        return _unknown("volume", tenant, "sessions", None, sentence, history)
    now, ratio = history[-1], limits["volume_ratio"]
    low, high = before.min() / ratio, before.max() * ratio
    has_stopped = _empty_days([*before, *history])[-1] > max(_empty_days(before))
    is_low = now < low and poisson.cdf(now, low) < limits["alpha"]
    count = "No session" if has_stopped else format_count(now, "session")
    sentence = (
        f"{count} in the newest 24 hours; {before.min():,.0f} to {before.max():,.0f} a day in "
        "training."
    )
    limit = high if now > high else low
    is_off = has_stopped or is_low or now > high
    return _check("volume", tenant, "sessions", is_off, now, limit, sentence, history)


def _empty_days(counts: Iterable[float]) -> list[int]:
    """For each day, the number of empty days in a row up to it."""
    return list(accumulate(counts, lambda run, count: 0 if count else run + 1, initial=0))


def _quality(facts: Facts, tenants: Sequence[str], limits: Limits, day: int = 0) -> list[Check]:
    """The quality of all together and of each tenant; the tenants share one significance level."""
    shared = {**limits, "alpha": limits["alpha"] / max(len(tenants) - 1, 1)}
    return [
        check
        for tenant in tenants
        for check in quality_checks(facts, tenant, limits if tenant == ALL else shared, day)
    ]


def _drift_checks(series: Sequence[Series], days: int) -> list[Check]:
    """One check per feature and group; a tenant's only where all tenants together have no drift."""
    if not series:
        no_day = "There is no full day of sessions since training."
        sentence = "Training had too few sessions." if days else no_day
        return [_unknown("drift", ALL, "features", None, sentence)]
    by_feature: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        by_feature.setdefault((one.tenant, one.feature), []).append(one)
    open_keys = {(one.tenant, one.feature) for one in series if one.is_open}
    checks = []
    for (tenant, feature), windows in by_feature.items():
        is_new = (tenant, feature) in open_keys or feature == "score"
        if tenant == ALL or (is_new and (ALL, feature) not in open_keys):
            checks.append(_drift_check(windows))
    return sorted(
        checks, key=lambda one: (one.state != ALARM, -(one.value or 0) / (one.limit or 1))
    )


def _drift_check(windows: Sequence[Series]) -> Check:
    """The check of one feature and group, by its worst window."""
    judged = [one for one in windows if np.isfinite(one.psi[-1])]
    worst = max(
        judged or windows, key=lambda one: (one.is_open, one.psi[-1] / one.state["limit"][-1])
    )
    value, limit, is_broken = (
        float(worst.psi[-1]),
        float(worst.state["limit"][-1]),
        worst.is_broken[-1],
    )
    name = "broken" if is_broken else "drift"
    history = tuple(None if np.isnan(psi) else float(psi) for psi in windows[0].psi)
    is_open = any(one.is_open for one in windows)
    if not judged:
        text = "too few sessions in the newest 24 hours."
    elif is_broken:
        text = f"has only one value; {worst.moved}."
    else:
        text = f"stability index {value:.2f} over {_span(worst.window)}; {worst.moved}."
    sentence = f"{worst.feature}: {text}"
    if judged or is_open:
        value = None if np.isnan(value) else value
        return _check(name, worst.tenant, worst.feature, is_open, value, limit, sentence, history)
    return _unknown(name, worst.tenant, worst.feature, limit, sentence, history)


def _compare(holdout: ByK, live: pd.DataFrame) -> dict[str, Any]:
    """Live figures against the holdout's k by k, weighted by the live answers, with intervals."""
    pairs = _pairs(holdout, live)
    if not pairs:
        return {"positives": 0}
    figures, total = _figures(pairs), sum(len(now) for now, _ in pairs)
    rng, gap, expected = np.random.default_rng(0), 0.0, 0.0
    for now, then in pairs:
        expected = expected + len(now) / total * _precision(then)
        gap = gap + len(now) / total * (_resample(now, rng) - _resample(then, rng))
    spread = max(float(np.std(gap)), 1e-9)
    holdout_positives = sum(then["label"].sum() for _, then in pairs)
    ratio_spread = np.sqrt(1 / figures["positives"] + 1 / holdout_positives)
    return figures | {
        "z": (figures["value"] - expected) / spread,
        "low": expected - 1.96 * spread,
        "high": expected + 1.96 * spread,
        "rate_z": float(np.log(figures["ratio"]) / ratio_spread),
    }


def _past(
    holdout: ByK, labeled: pd.DataFrame, days: Sequence[int], window: int
) -> list[dict[str, Any]]:
    """The figures of the window that ends on each day; empty for a window with few outcomes."""
    history = []
    for day in days:
        pairs = _pairs(holdout, labeled[labeled["day"].between(day - window + 1, day)])
        figures = _figures(pairs) if pairs else {"positives": 0}
        history.append(figures if figures["positives"] >= FEW_POSITIVES else {})
    return history


def _by_k(rows: pd.DataFrame) -> ByK:
    """The rows by their number of events, where both outcomes are frequent enough."""
    groups = rows.groupby("event_count")
    return {
        k: some for k, some in groups if FEW_AT_K <= some["label"].sum() <= len(some) - FEW_AT_K
    }


def _pairs(holdout: ByK, live: pd.DataFrame) -> Pairs:
    return [(rows, holdout[k]) for k, rows in _by_k(live).items() if k in holdout]


def _figures(pairs: Pairs) -> dict[str, Any]:
    """Live outcomes, weighted average precision, and outcomes per predicted one over holdout's."""
    total = sum(len(now) for now, _ in pairs)
    live, then = (
        pd.concat(rows)[["label", "probability"]].sum() for rows in zip(*pairs, strict=True)
    )
    value = sum(len(rows) / total * _precision(rows) for rows, _ in pairs)
    ratio = live["label"] / live["probability"] / (then["label"] / then["probability"])
    return {"positives": int(live["label"]), "value": value, "ratio": float(ratio)}


def _precision(rows: pd.DataFrame) -> float:
    return float(_ranking(rows).average_precision(np.ones(len(rows))))


def _resample(rows: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Average precision of resamples; the mean where it is undefined."""
    ranking, n = _ranking(rows), len(rows)
    samples = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    values = np.array([ranking.average_precision(weights) for weights in samples])
    return np.where(np.isfinite(values), values, np.nanmean(values))


def _ranking(rows: pd.DataFrame) -> Ranking:
    return Ranking.of(rows["label"].to_numpy(), rows["probability"].to_numpy())


def _freshness(facts: Facts, limits: Limits) -> Check:
    age, limit = facts.age_hours, limits["freshness_hours"]
    if age <= -1:
        sentence = (
            f"The newest event arrived {format_count(-age, 'hour')} after the time of this check."
        )
        return _unknown("freshness", ALL, "data", limit, sentence)
    sentence = f"The newest event arrived {format_count(age, 'hour')} ago."
    if age > OLD_EXPORT_HOURS:
        command = f"`make monitor AS_OF={facts.last_arrival}`"
        sentence += f" If the logs are an old export, judge them as of their end: {command}."
    return _check("freshness", ALL, "data", age > limit, age, limit, sentence)


def _quarantine(facts: Facts, limits: Limits) -> Check:
    """The worst source, each on its own newest day."""
    checks, limit = [], limits["quarantined_share"]
    for source, rows in facts.arrivals.groupby("source"):
        counts = rows.groupby("day")[["quarantined_count", "record_count"]].sum()
        share = counts["quarantined_count"] / counts["record_count"].clip(lower=1)
        text = f"of the newest day's records of {source} are quarantined"
        checks.append(_share_check("quarantine", "records", share, facts, limit, text))
    sentence = "No file has the day on which it arrived."
    unknown = _unknown("quarantine", ALL, "records", limit, sentence)
    return max(checks, key=lambda check: (check.state == ALARM, check.value or 0), default=unknown)


def _unknown_categories(facts: Facts, limits: Limits) -> list[Check]:
    """All alarms, or the feature with the largest share."""
    both, checks = pd.concat([facts.reference, facts.live]), []
    for feature in facts.schema.features:
        if feature.kind == "category" and feature.name in both:
            column, name = both[feature.name], feature.name
            is_unknown = column.notna() & ~column.isin(feature.categories)
            text = f"of the sessions have a {name} that was not in training"
            share, limit = is_unknown.groupby(both["day"]).mean(), limits["unknown_share"]
            checks.append(_share_check("unknown category", name, share, facts, limit, text))
    alarms = [check for check in checks if check.state == ALARM]
    return alarms or sorted(checks, key=lambda check: -(check.value or 0))[:1]


def _share_check(
    name: str, subject: str, by_day: pd.Series, facts: Facts, limit: float, text: str
) -> Check:
    """A share of the newest day against its limit, which is higher if training days had more."""
    history = tuple(
        None if np.isnan(value) else float(value) for value in by_day.reindex(facts.days)
    )
    if not history or history[-1] is None:
        sentence = f"{subject}: no data in the newest 24 hours."
        return _unknown(name, ALL, subject, limit, sentence, history)
    highest = by_day[by_day.index.isin(set(facts.reference["day"]))].max()
    if not np.isnan(highest):
        limit = max(limit, SEASON_MARGIN * highest)
    share, sentence = history[-1], f"{history[-1]:.2%} {text}."
    return _check(name, ALL, subject, share > limit, share, float(limit), sentence, history)


def _latency(facts: Facts, limits: Limits) -> Check:
    limit = limits["latency_ms"]
    if facts.latency.empty:
        sentence = "The server has not answered a request for one session yet."
        return _unknown("latency", ALL, "answers", limit, sentence)
    history = tuple(facts.latency.sort_values("day")["p99_ms"].astype(float))
    p99, sentence = history[-1], f"99 % of the answers took at most {history[-1]:.0f} ms."
    return _check("latency", ALL, "answers", p99 > limit, p99, limit, sentence, history)


def _check(
    name: str,
    tenant: str,
    subject: str,
    is_alarm: bool,
    value: float | None,
    limit: float,
    sentence: str,
    history: tuple = (),
) -> Check:
    if not is_alarm:
        return Check(name, tenant, subject, FINE, value, limit, sentence, history)
    is_over = value is not None and value > limit
    beyond = [each is not None and (each > limit) == is_over for each in reversed(history)]
    days = len(list(takewhile(bool, beyond)))
    return Check(name, tenant, subject, ALARM, value, limit, sentence, history, days)


def _unknown(
    name: str, tenant: str, subject: str, limit: float | None, sentence: str, history: tuple = ()
) -> Check:
    return Check(name, tenant, subject, UNKNOWN, None, limit, sentence, history)


def _span(days: int) -> str:
    return "24 hours" if days == 1 else f"{days} days"


def _of(tenant: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one tenant, or of all, without its name."""
    rows = rows if tenant == ALL else rows[rows["tenant_id"] == tenant]
    return rows.drop(columns=["tenant_id"])
