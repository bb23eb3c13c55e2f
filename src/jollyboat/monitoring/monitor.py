"""The monitor's checks of a champion on live data, and the decision to retrain."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.monitoring import fleet, quality, volume
from jollyboat.monitoring.check import ALARM, ALL, Check, Limits, checked, span, unknown
from jollyboat.monitoring.drift import SEASON_MARGIN, Series, Table, watch
from jollyboat.monitoring.facts import Facts
from jollyboat.pages.terminal import format_count, format_percent

OLD_EXPORT_HOURS = 30 * 24
TENANTS_SHARE = 0.05  # of live sessions: tenants with fewer do not decide for the shared model


def judge(
    facts: Facts, limits: Limits
) -> tuple[list[Check], dict[str, Any], dict[str, dict[str, Any]]]:
    """All checks, the retraining decision, and an entry for each tenant (see `fleet`).

    `limits` is [monitor] with latency_ms of [gate]. Each tenant is judged, and all together.
    """
    tenants = _tenants(facts)
    several = tenants if len(tenants) > 1 else []
    tables = (facts.reference, facts.live), (facts.reference_scores, facts.live_scores)
    series = watch([Table(*table) for table in tables], facts.days, limits)
    measured = quality.measure(facts, several, limits["windows"])
    qualities, volumes = quality.checks(measured, limits), volume.checks(facts, several, limits)
    checks = [
        *qualities,
        *_drift_checks(series, facts),
        *volumes,
        *health_checks(facts, limits),
        *_unknown_categories(facts, limits),
    ]
    earlier = (measured.days or [0])[-1] + 1 - limits["retrain_after_days"]
    before = {check.key for check in quality.checks(measured, limits, earlier) if _is_alarm(check)}
    lasting = [check for check in qualities if _is_alarm(check) and check.key in before]
    sessions = volume.newest_and_usual(facts, several)
    entries = fleet.summarize(tenants, checks, series, measured.outcomes_by_tenant, sessions)
    return checks, decide_retraining(facts, series, lasting, limits), entries


def _tenants(facts: Facts) -> list[str]:
    """Every tenant, those with the most training sessions first."""
    frames = facts.reference, facts.live, facts.answers, facts.volumes
    names = [facts.reference["tenant_id"].value_counts().index]
    names += [sorted(frame["tenant_id"].unique()) for frame in frames]
    return list(dict.fromkeys([name for each in names for name in each] + list(facts.owners)))


def _is_alarm(check: Check) -> bool:
    return check.state == ALARM


def health_checks(facts: Facts, limits: Limits) -> list[Check]:
    """The checks of data and server: freshness, quarantine and latency."""
    checks = _freshness, _quarantine, _latency
    return [check(facts, limits) for check in checks]


def decide_retraining(
    facts: Facts, series: Sequence[Series], lasting: Sequence[Check], limits: Limits
) -> dict[str, Any]:
    """{"retrain", "status", "reason"}: yes for a problem of some days, unless training was recent.

    `lasting` are quality alarms of some days. A problem counts if all tenants together have it, or
    tenants with 5 % of the live sessions. A broken feature needs fixed data first: a new model
    would learn the fault. Problems of a tenant's own champion do not count, because training makes
    the shared model.
    """
    held, cool_down = limits["retrain_after_days"], limits["cool_down_days"]
    broken = _of_many(facts, ((one.feature, one.tenant) for one in series if one.is_broken[-1]))
    if broken:
        names = ", ".join(broken[:5])
        reason = f"Fix {names} first: training now would learn the fault."
        return {"retrain": False, "status": "fix the data first", "reason": reason}
    drifted = (
        (one.feature, one.tenant)
        for one in series
        if one.is_open
        and len(one.psi) >= held
        and one.state["is_open"][-held:].all()
        and one.tenant not in facts.owners
    )
    problems = {
        "drift of": _of_many(facts, drifted)[:5],
        "quality:": _worse(facts, [one for one in lasting if one.tenant not in facts.owners]),
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


def _of_many(facts: Facts, problems: Iterable[tuple[str, str]]) -> list[str]:
    """The subjects that are a problem of all together, or of tenants with enough sessions."""
    tenants: dict[str, set[str]] = {}
    for subject, tenant in problems:
        tenants.setdefault(subject, set()).add(tenant)
    share = facts.live["tenant_id"].value_counts(normalize=True)
    return sorted(
        subject
        for subject, names in tenants.items()
        if {ALL, quality.SMALL} & names or share[share.index.isin(names)].sum() >= TENANTS_SHARE
    )


def _worse(facts: Facts, alarms: Sequence[Check]) -> list[str]:
    """The subjects of quality alarms that count, with their tenants."""
    texts = []
    for subject in _of_many(facts, ((check.subject, check.tenant) for check in alarms)):
        tenants = [check.tenant for check in alarms if check.subject == subject]
        names = ", ".join(tenants) if len(tenants) <= 3 else f"{len(tenants)} tenants"
        texts.append(f"{subject} ({names})")
    return texts


def _drift_checks(series: Sequence[Series], facts: Facts) -> list[Check]:
    """One check per feature and group; a tenant's only where all tenants together have no drift."""
    if not series:
        no_day = f"There is no full day of {facts.rows} since training."
        sentence = f"Training had too few {facts.rows}." if facts.days else no_day
        return [unknown("drift", ALL, "features", None, sentence)]
    by_feature: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        by_feature.setdefault((one.tenant, one.feature), []).append(one)
    open_keys = {(one.tenant, one.feature) for one in series if one.is_open}
    checks = []
    for (tenant, feature), windows in by_feature.items():
        is_new = (tenant, feature) in open_keys or feature == "score"
        if tenant == ALL or (is_new and (ALL, feature) not in open_keys):
            checks.append(_drift_check(windows, facts.rows))
    return sorted(
        checks, key=lambda one: (one.state != ALARM, -(one.value or 0) / (one.limit or 1))
    )


def _drift_check(windows: Sequence[Series], rows: str) -> Check:
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
        text = f"too few {rows} in the newest 24 hours."
    elif is_broken:
        text = f"has only one value; {worst.moved}."
    else:
        text = f"stability index {value:.2f} over {span(worst.window)}; {worst.moved}."
    sentence = f"{worst.feature}: {text}"
    if judged or is_open:
        value = None if np.isnan(value) else value
        check = checked(name, worst.tenant, worst.feature, is_open, value, limit, sentence, history)
        return replace(check, distribution=worst.distribution if is_open else ())
    return unknown(name, worst.tenant, worst.feature, limit, sentence, history)


def _freshness(facts: Facts, limits: Limits) -> Check:
    age, limit = facts.age_hours, limits["freshness_hours"]
    if age <= -1:
        sentence = (
            f"The newest event arrived {format_count(-age, 'hour')} after the time of this check."
        )
        return unknown("freshness", ALL, "data", limit, sentence)
    sentence = f"The newest event arrived {format_count(max(age, 0), 'hour')} ago."
    if age > OLD_EXPORT_HOURS:
        command = f"`make monitor AS_OF={facts.last_arrival}`"
        sentence += f" If the logs are an old export, judge them as of their end: {command}."
    return checked("freshness", ALL, "data", age > limit, round(age, 1), limit, sentence)


def _quarantine(facts: Facts, limits: Limits) -> Check:
    """The worst source, each on its own newest day."""
    checks, limit = [], limits["quarantined_share"]
    for source, rows in facts.arrivals.groupby("source"):
        counts = rows.groupby("day")[["quarantined_count", "record_count"]].sum()
        share = counts["quarantined_count"] / counts["record_count"].clip(lower=1)
        text = f"of the newest day's records of {source} are quarantined"
        checks.append(_share_check("quarantine", "records", share, facts, limit, text))
    sentence = "No file has the day on which it arrived."
    none = unknown("quarantine", ALL, "records", limit, sentence)
    return max(checks, key=lambda check: (check.state == ALARM, check.value or 0), default=none)


def _unknown_categories(facts: Facts, limits: Limits) -> list[Check]:
    """All alarms, or the feature with the largest share."""
    both, checks = pd.concat([facts.reference, facts.live]), []
    for feature in facts.schema.features:
        if feature.kind == "category" and feature.name in both:
            column, name = both[feature.name], feature.name
            is_unknown = column.notna() & ~column.isin(feature.categories)
            text = f"of the {facts.rows} have a {name} that was not in training"
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
        return unknown(name, ALL, subject, limit, sentence, history)
    highest = by_day[by_day.index.isin(set(facts.reference["day"]))].max()
    if not np.isnan(highest):
        limit = max(limit, SEASON_MARGIN * highest)
    share, sentence = history[-1], f"{format_percent(history[-1])} {text}."
    return checked(name, ALL, subject, share > limit, share, float(limit), sentence, history)


def _latency(facts: Facts, limits: Limits) -> Check:
    limit = limits["latency_ms"]
    if facts.latency.empty:
        sentence = "The server has not answered a request for one session yet."
        return unknown("latency", ALL, "answers", limit, sentence)
    history = tuple(facts.latency.sort_values("day")["p99_ms"].astype(float))
    p99, sentence = history[-1], f"99 % of the answers took at most {history[-1]:.0f} ms."
    return checked("latency", ALL, "answers", p99 > limit, p99, limit, sentence, history)
