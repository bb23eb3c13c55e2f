"""Every tenant in a row: its data, its model and its quality, the worst first.

It is read from files: the latest snapshot, the pointers to champions, the last deployment's
decisions and the last monitoring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from jollyboat.bundles.bundle import SHARED
from jollyboat.champions import champion, policy
from jollyboat.pages.terminal import format_percent, join_lines
from jollyboat.serving import own_champions
from jollyboat.snapshots import snapshot as snapshots
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, read_json, suggest
from jollyboat.store.settings import Settings

FINE, NEW = "fine", "new"
# The statuses, the worst first. A tenant has the first one that applies.
STATUSES = {
    "held back": "its newest records wait; its last good rows stay",
    "below": "live predictions are worse than on the holdout",
    "failed": "its own model could not be fitted or deployed, or no model answers it",
    "drift": "a feature differs from training's",
    "volume": "it has many more or fewer sessions than in training",
    "stale": "its newest event is old",
    "paused": "a person paused it: no new model is promoted",
    "pinned": "a person pinned it to the shared model",
    NEW: "its first event is less than a week old",
    FINE: "nothing needs attention",
}
NEED_ATTENTION = ("held back", "below", "failed", "drift", "volume", "stale")
FEWEST_SESSIONS = 20  # in a week, from which on a change is a figure
BOTH_WEEKS = pd.Timedelta(days=13)  # of events, less one day at most: a change compares whole weeks
COUNTS = """
select
    tenant_id,
    min(started_at) as first_at,
    max(ended_at) as last_at,
    count(*) as session_count,
    count(*) filter (where started_at > $1 - interval 7 day) as week_count,
    count(*) filter (
        where started_at between $1 - interval 14 day and $1 - interval 7 day
    ) as week_before_count
from sessions
group by tenant_id
"""


@dataclass(frozen=True)
class Tenant:
    """One tenant's row. Unknown figures are None; `attention` has a sentence for each trouble."""

    name: str
    status: str
    attention: list[str]
    session_count: int
    week_count: int
    change: float | None  # the sessions of the newest seven days over those of the seven before
    hours_behind: float  # its newest event against the end of all data
    label_rate: float | None
    model: str  # "own", "shared" or "none"
    version: str | None
    since: str | None
    reason: str
    policy: str | None
    quality: Mapping[str, Any] = field(default_factory=dict)
    drift: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 0

    @property
    def needs_attention(self) -> bool:
        """Whether somebody should look at it."""
        return self.status in NEED_ATTENTION

    @property
    def is_stale(self) -> bool:
        """Whether its newest event is old."""
        return "stale" in self.status or any("newest event" in text for text in self.attention)


def gather(store: Store, settings: Settings) -> list[Tenant]:
    """Every tenant of the latest snapshot, the worst first and of equals the largest.

    UserError where there is no snapshot.
    """
    opened = snapshots.open_latest(store)
    end = opened.ends_at
    rows = _count(opened, end)
    facts = {
        "decisions": own_champions.read_decisions(store),
        "policies": policy.read_policies(store),
        "monitored": (read_json(store.monitor / "latest.json", {}) or {}).get("tenants", {}),
        "held": opened.manifest.get("held", {}),
        "rates": _label_rates(opened),
    }
    names = {str(name) for each in facts.values() for name in each} | set(rows.index)
    tenants = [
        _tenant(store, name, rows.loc[name] if name in rows.index else None, end, facts, settings)
        for name in sorted(names)
    ]
    order = list(STATUSES)
    return sorted(tenants, key=lambda one: (order.index(one.status), -one.session_count, one.name))


def find(tenants: Sequence[Tenant], name: str) -> Tenant:
    """The tenant of this name; UserError with a suggestion where there is none."""
    by_name = {one.name: one for one in tenants}
    if name not in by_name:
        hint = suggest(name, by_name) or " `jollyboat tenants` lists them."
        raise UserError(f"The latest snapshot has no tenant {name!r:.80}.{hint}")
    return by_name[name]


def format_tenants(tenants: Sequence[Tenant], all_count: int) -> str:
    """A line for each tenant, and how many of all they are."""
    lines = [
        f"{'tenant':<16}{'status':<11}{'sessions':>10}{'7 days':>9}{'change':>8}{'rate':>8}"
        f"{'quality':>18}  {'model':<8}reason"
    ]
    for one in tenants:
        change = "-" if one.change is None else f"{100 * (one.change - 1):+.0f} %"
        rate = format_percent(one.label_rate)
        quality = one.quality.get("state") or "-"
        reason = one.attention[0] if one.attention else one.reason
        lines.append(
            f"{one.name:<16}{one.status:<11}{one.session_count:>10,}{one.week_count:>9,}"
            f"{change:>8}{rate:>8}{quality:>18}  {one.model:<8}{reason}"
        )
    lines.append(f"{len(tenants):,} of {all_count:,} tenants")
    return "\n".join(lines)


def format_tenant(one: Tenant) -> str:
    """Everything about one tenant, as lines."""
    change = "unknown" if one.change is None else f"{one.change:.2f} times the week before"
    rate = format_percent(one.label_rate)
    quality = ", ".join(f"{name} {value}" for name, value in one.quality.items()) or "not monitored"
    facts = {
        "status": f"{one.status}: {STATUSES[one.status]}",
        "model": f"{one.model} {one.version or ''} since {one.since or 'unknown'}",
        "reason": one.reason,
        "sessions": f"{one.session_count:,}; {one.week_count:,} in the newest 7 days, {change}",
        "newest event": f"{one.hours_behind:.1f} hours before the end of all data",
        "label rate": rate,
        "live quality": quality,
        "calls": f"{one.calls:,}",
    }
    lines = [f"{one.name}", *(f"  {name:<14}{text}" for name, text in facts.items())]
    return join_lines([*lines, *(f"  ! {text}" for text in one.attention)])


def _count(opened: Snapshot, end: datetime | None) -> pd.DataFrame:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"create view sessions as from {opened.scan('sessions')}")
        return connection.execute(COUNTS, [end]).df().set_index("tenant_id")


def _label_rates(opened: Snapshot) -> dict[str, float]:
    if opened.is_ranking:
        return {}
    rows = opened.relation(opened.features).filter("status = 'train' and label is not null")
    return dict(rows.aggregate("tenant_id, avg(label::int)").fetchall())


def _tenant(
    store: Store,
    name: str,
    row: pd.Series | None,
    end: datetime | None,
    facts: Mapping[str, Mapping],
    settings: Settings,
) -> Tenant:
    now = _model_of(store, name, settings.tenants.private)
    monitored, decided = facts["monitored"].get(name, {}), facts["policies"].get(name)
    decision = facts["decisions"].get(name, {})
    figures = {"session_count": 0, "week_count": 0, "change": None, "hours_behind": 0.0}
    is_new = False
    if row is not None:
        before, age = int(row["week_before_count"]), end - row["first_at"]
        has_change = before >= FEWEST_SESSIONS and age >= BOTH_WEEKS
        figures = {
            "session_count": int(row["session_count"]),
            "week_count": int(row["week_count"]),
            "change": row["week_count"] / before if has_change else None,
            "hours_behind": max((end - row["last_at"]) / pd.Timedelta(hours=1), 0.0),
        }
        is_new = age < pd.Timedelta(days=7)
    states = {
        "held back": _held(facts["held"].get(name)),
        "below": _quality(monitored.get("quality", {})),
        "failed": _failure(decision, now["model"]),
        "drift": _drift(monitored.get("drift", {})),
        "volume": _volume(monitored.get("volume", {})),
        "stale": _staleness(figures["hours_behind"], settings.monitor.freshness_hours),
    }
    attention = {status: text for status, text in states.items() if text}
    status = next(iter(attention), None) or (decided["state"] if decided else None)
    return Tenant(
        name=name,
        status=status or (NEW if is_new else FINE),
        attention=list(attention.values()),
        **figures,
        label_rate=facts["rates"].get(name),
        **now,
        reason=_reason(decision, decided),
        policy=decided and decided["state"],
        quality=monitored.get("quality", {}),
        drift=monitored.get("drift", {}),
        calls=monitored.get("calls", 0),
    )


def _model_of(store: Store, tenant: str, private: Sequence[str]) -> dict[str, str | None]:
    """Which model answers the tenant now, and since when."""
    try:
        owner, version = champion.current(store, tenant, private) or (None, None)
        pointer = read_json(store.champion(tenant)) or read_json(store.champion(SHARED)) or {}
    except UserError:  # a name that no folder can have, or a broken pointer
        owner, version, pointer = None, None, {}
    model = {None: "none", SHARED: "shared"}.get(owner, "own")
    since = pointer["history"][-1]["at"] if pointer.get("history") else None
    return {"model": model, "version": version, "since": since}


def _reason(decision: Mapping, decided: Mapping | None) -> str:
    if decided:
        return f"{decided['state']} by {decided['by']}: {decided['why']}"
    return decision.get("reason") or "shared: no deployment has seen it yet"


def _held(held: Mapping | None) -> str:
    return f"since {held['since']}: {held['reason']}" if held else ""


def _quality(quality: Mapping) -> str:
    if quality.get("state") != "below":
        return ""
    return (
        f"average precision is {quality['value']:.3f} live, at least {quality['low']:.3f} was "
        f"promised ({quality['outcomes']} outcomes)"
    )


def _failure(decision: Mapping, model: str) -> str:
    reason = decision.get("reason", "")
    return reason if "failed" in reason or (decision and model == "none") else ""


def _drift(drift: Mapping) -> str:
    if drift.get("state") != "alarm":
        return ""
    return f"{drift['worst']} has drifted (stability index {drift['psi']:.2f})"


def _volume(volume: Mapping) -> str:
    if volume.get("state") != "alarm":
        return ""
    return f"{volume['now']:,} sessions in the newest 24 hours, usually {volume['usual']:,.0f}"


def _staleness(hours: float, limit: float) -> str:
    return f"its newest event is {hours:.0f} hours older than the others'" if hours > limit else ""


def page_of(store: Store) -> Path:
    """The file of the page of all tenants."""
    return store.reports / "tenants.html"
