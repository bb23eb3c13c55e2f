"""One monitoring of a question, of whatever kind it is."""

from datetime import datetime
from typing import Any

from jollyboat.monitoring import inputs, monitor, ranking_monitor
from jollyboat.monitoring.monitor import Check, Limits
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
        return ranking_monitor.judge(newest, as_of, limits)
    facts, about = inputs.gather(store, as_of)
    return *monitor.judge(facts, limits), about
