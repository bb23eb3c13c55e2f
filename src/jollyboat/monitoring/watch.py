"""One monitoring of a question, of whatever kind it is."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from jollyboat.monitoring import inputs, monitor, ranking_monitor
from jollyboat.monitoring.check import Check, Limits
from jollyboat.snapshots import snapshot
from jollyboat.store import Store


def watch(
    store: Store, as_of: datetime, limits: Limits
) -> tuple[list[Check], dict[str, Any], dict[str, Any]]:
    """The checks, the retraining decision, and the ids, times and counts of the report.

    `limits` is [monitor] with latency_ms of [gate]. Raises UserError.
    """
    newest = snapshot.open_latest(store)
    if newest.is_ranking:
        checks, decision, about = ranking_monitor.judge(newest, as_of, limits)
    else:
        facts, about = inputs.gather(store, as_of)
        checks, decision, tenants = monitor.judge(facts, limits)
        about |= {"tenants": tenants}
    for calls in about["calls"]:
        if calls["tenant_id"] in about["tenants"]:
            about["tenants"][calls["tenant_id"]]["calls"] = calls["count"]
    return [_with_first_day(check, about["day_starts"]) for check in checks], decision, about


def _with_first_day(check: Check, day_starts: list[str]) -> Check:
    """The check with the day on which its alarm began, if that is a live day."""
    is_live = 0 < check.alarm_days <= len(day_starts)
    return replace(check, since=day_starts[-check.alarm_days]) if is_live else check
