"""A figure for every tenant: quality, drift and volume in one entry each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jollyboat.monitoring.check import ALARM, ALL, FINE, UNKNOWN, Check
from jollyboat.monitoring.drift import Series

EXPECTED, BELOW, TOO_FEW = "as expected", "below", "too few"


def summarize(
    tenants: Sequence[str],
    checks: Sequence[Check],
    series: Sequence[Series],
    outcomes: Mapping[str, int],
    sessions: Mapping[str, tuple[int, float | None]],
    subject: str = "average precision",
) -> dict[str, dict[str, Any]]:
    """An entry for each tenant.

    `outcomes` is the number of known ones; `sessions` those of the newest 24 hours and of a usual
    day. `subject` is the quality check's. A single tenant has the figures of all.
    """
    by_key = {check.key: check for check in checks}
    by_tenant: dict[str, list[Series]] = {}
    for one in series:
        by_tenant.setdefault(one.tenant, []).append(one)
    attention: dict[str, list[str]] = {}
    for check in checks:
        if check.state == ALARM:
            attention.setdefault(check.tenant, []).append(check.sentence)
    entries = {}
    for tenant in tenants:
        name = tenant if len(tenants) > 1 else ALL
        rate, volume = (
            by_key.get(f"{check}/{name}/{about}")
            for check, about in (("quality", "rate of outcomes"), ("volume", "sessions"))
        )
        entries[tenant] = {
            "quality": _quality(by_key.get(f"quality/{name}/{subject}"), outcomes.get(name, 0)),
            "rate_ratio": rate and rate.value,
            "drift": _drift(by_tenant.get(name, [])),
            "volume": _volume(volume, *sessions.get(name, (0, None))),
            "calls": 0,
            "attention": attention.get(name, []),
        }
    return entries


def _quality(check: Check | None, outcomes: int) -> dict[str, Any]:
    if check is None or check.state == UNKNOWN:
        return {"state": TOO_FEW, "value": None, "low": None, "outcomes": outcomes}
    state = BELOW if check.state == ALARM else EXPECTED
    return {"state": state, "value": check.value, "low": check.limit, "outcomes": outcomes}


def _drift(series: Sequence[Series]) -> dict[str, Any]:
    """The state over all features, and the feature that is worst relative to its limit."""
    judged = [one for one in series if np.isfinite(one.psi[-1])]
    is_open = any(one.is_open for one in series)
    if not judged:
        return {"state": ALARM if is_open else TOO_FEW, "worst": None, "psi": None}
    worst = max(judged, key=lambda one: (one.is_open, one.psi[-1] / one.state["limit"][-1]))
    state, psi, limit = ALARM if is_open else FINE, worst.psi[-1], worst.state["limit"][-1]
    return {"state": state, "worst": worst.feature, "psi": float(psi), "limit": float(limit)}


def _volume(check: Check | None, now: int, usual: float | None) -> dict[str, Any]:
    state = TOO_FEW if check is None or check.state == UNKNOWN else check.state
    return {"now": now, "usual": usual, "state": state}
