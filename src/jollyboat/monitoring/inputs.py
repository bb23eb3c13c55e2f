"""What the newest snapshot says of the present, beside what the champion learned from: the monitor's facts."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.bundles.features import naive_utc
from jollyboat.champions import champion
from jollyboat.monitoring.monitor import Facts
from jollyboat.snapshots import snapshot
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, quoted
from jollyboat.training import run
from jollyboat.training.persistence import load
from jollyboat.training.schema import FeatureSchema

COVERED = 0.9  # of 24 hours; a day of which less is known is not judged
KEYS = ["tenant_id", "entity_id"]
DAY = pd.Timedelta(days=1)


def gather(store: Store, now: datetime) -> tuple[Facts, dict[str, Any]]:
    """The facts that `monitor.judge` takes, and what they are about. UserError where there is no champion or snapshot.

    Days are of 24 hours and end with the newest session, so that each holds all hours. Quality is of what the server
    answered where it has answered anything, else of the newest sessions as the champion would have scored them. A
    tenant that has a champion of its own is judged by that one's answers and scores, and its holdout.
    """
    found = champion.current(store)
    if found is None:
        raise UserError("There is no champion to watch: `make deploy` makes one.")
    own, newest = champion.own(store), snapshot.open_latest(store)
    shared, *others = [
        _past(open_bundle(store.bundle(*one)), store) for one in (found, *own.items())
    ]
    bundle, until = shared.bundle, shared.until
    sessions = _sessions(newest)
    live = sessions[sessions["point_at"] > until]
    end = max(live["point_at"].max(), until) if len(live) else until
    reference, live = _of_whole_days(shared.sessions, end), _with_day(live, end)
    days = _whole_days(live["day"], until, end)
    log = predictions(newest)
    calls = _calls(log)
    said = [_said(past, live, log, end, own) for past in (shared, *others)]
    features = [feature["name"] for feature in bundle.schema["features"]]
    facts = Facts(
        days=days,
        schema=FeatureSchema.from_dict(bundle.schema),
        reference=reference[["tenant_id", "day", *features]],
        live=live[["tenant_id", "day", *features]],
        **{name: pd.concat([one[name] for one in said], ignore_index=True) for name in said[0]},
        volumes=_volumes(newest, end),
        arrivals=_arrivals(newest),
        latency=_latency(newest) if calls else pd.DataFrame(columns=["day", "p99_ms"]),
        age_hours=(pd.Timestamp(naive_utc(now)) - _last_arrival(newest)) / pd.Timedelta(hours=1),
        days_since_training=(end - _data_end(_newest_training(store, shared.learned))) / DAY,
        owners=list(own),
    )
    return facts, {
        "champion": bundle.owner,
        "version": bundle.version,
        "own": own,
        "run": shared.trained.id,
        "snapshot": newest.id,
        "learned_until": str(until),
        "newest": str(end),
        "session_count": len(live),
        "calls": calls,
        "day_starts": [str(end + (day - 1) * DAY) for day in days],
    }


@dataclass(frozen=True)
class Past:
    """A champion, its run, and the sessions that the run began with; of a tenant's own, that tenant's."""

    bundle: Bundle
    learned: Snapshot
    trained: run.Run
    sessions: pd.DataFrame

    @property
    def until(self) -> pd.Timestamp:
        return self.sessions["point_at"].max()


def _past(bundle: Bundle, store: Store) -> Past:
    learned = _learned(bundle, store)
    sessions = _sessions(learned, "" if bundle.owner == champion.SHARED else bundle.owner)
    return Past(bundle, learned, run.open(bundle.manifest["run"], store), sessions)


def _learned(bundle: Bundle, store: Store) -> Snapshot:
    try:
        return snapshot.open(bundle.manifest["snapshot"], store)
    except UserError as error:
        pointer = store.champion(bundle.owner)
        mend = f"promote a new one, or delete {pointer} and the shared one answers {bundle.owner}"
        raise UserError(
            f"Snapshot {bundle.manifest['snapshot']}, which champion {bundle.version} learned from, is gone, as after "
            "`jollyboat erase`, so there is nothing to compare with: "
            f"{'`make train deploy`' if bundle.owner == champion.SHARED else mend}."
        ) from error


def _said(
    past: Past, live: pd.DataFrame, log: pd.DataFrame, end: pd.Timestamp, owners: Collection[str]
) -> dict[str, pd.DataFrame]:
    """What a champion says, and said in training, of the tenants whom it answers: four of the monitor's frames."""
    bundle, split = past.bundle, past.trained.metrics["split"]
    reference, live = (
        _mine(rows, bundle.owner, owners) for rows in (_of_whole_days(past.sessions, end), live)
    )
    tested = reference[reference["point_at"] >= pd.Timestamp(split["validation"]["from"])]
    holdout = past.trained.predictions()[[*KEYS, bundle.candidate]].rename(
        columns={bundle.candidate: "probability"}
    )
    scored = live.assign(probability=_score(bundle, live))
    return {
        "reference_scores": _scores(tested, bundle),
        "live_scores": scored.rename(columns={"probability": "score"})[
            ["tenant_id", "day", "score"]
        ],
        "holdout": _with_label(reference.merge(holdout, on=KEYS)),
        "answers": _answers(_mine(log, bundle.owner, owners), bundle, end)
        if len(log)
        else _with_label(scored[scored["point_at"] > past.until]),
    }


def _mine(rows: pd.DataFrame, owner: str, owners: Collection[str]) -> pd.DataFrame:
    """The rows of the tenant whose own champion this is, or of all that have none."""
    return rows[rows["tenant_id"] == owner if owner in owners else ~rows["tenant_id"].isin(owners)]


def _sessions(opened: Snapshot, tenant: str = "") -> pd.DataFrame:
    """The sessions that teach: those which training reads, of any snapshot; of one tenant where it is named."""
    of_tenant = f"and tenant_id = '{quoted(tenant)}'" if tenant else ""
    return opened.relation("session_features").filter(f"status = 'train' {of_tenant}").df()


def _with_day(rows: pd.DataFrame, end: pd.Timestamp, at: str = "point_at") -> pd.DataFrame:
    return rows.assign(day=-((end - rows[at]) // DAY).astype(int))


def _of_whole_days(sessions: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    """The sessions with their day, without those of days that they cover in part."""
    rows, at = _with_day(sessions, end), sessions["point_at"]
    return rows[rows["day"].isin(_whole_days(rows["day"], at.min(), end, at.max()))]


def _whole_days(
    days: pd.Series, begin: pd.Timestamp, end: pd.Timestamp, until: pd.Timestamp | None = None
) -> list[int]:
    """The days between first and last, empty ones too, that lie between `begin` and `until`."""
    if days.empty:
        return []
    spans = {
        day: (end + (day - 1) * DAY, end + day * DAY) for day in range(days.min(), days.max() + 1)
    }
    covered = {
        day: min(until or last, last) - max(begin, first) for day, (first, last) in spans.items()
    }
    return [day for day, span in covered.items() if span >= COVERED * DAY]


def _score(bundle: Bundle, rows: pd.DataFrame) -> np.ndarray:
    """The bundle's probability for rows of features; its columns may lack none."""
    columns = FeatureSchema.from_dict(bundle.schema).names
    if missing := [name for name in columns if name not in rows.columns]:
        raise UserError(
            f"The newest snapshot lacks {missing[0]}, which the champion reads: `make train deploy`."
        )
    return load(bundle.model).predict_proba(rows[columns])


def _scores(rows: pd.DataFrame, bundle: Bundle) -> pd.DataFrame:
    return rows.assign(score=_score(bundle, rows))[["tenant_id", "day", "score"]]


def _with_label(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["tenant_id", "day", "event_count", "probability", "label"]].assign(
        label=rows["label"].astype(float)
    )


def _calls(log: pd.DataFrame) -> list[dict[str, Any]]:
    """Everybody's calls by tenant."""
    if log.empty:
        return []
    calls = log.groupby("tenant_id")["answered_at"].agg(["size", "max"]).reset_index()
    return [
        {"tenant_id": tenant, "count": int(n), "last": str(last)}
        for tenant, n, last in calls.itertuples(index=False)
    ]


def _answers(log: pd.DataFrame, bundle: Bundle, end: pd.Timestamp) -> pd.DataFrame:
    """What this champion answered about people's sessions, once per session and k."""
    log = log[log["probability"].notna()]  # the others failed
    own = log[
        (log["model_version"] == bundle.version)
        & ~log["had_outcome"]
        & ~log["status"].isin(["bot", "unfit"])
    ]
    own = _with_day(own.drop_duplicates([*KEYS, "event_count"], keep="last"), end)
    return _with_label(own.rename(columns={"outcome": "label"}))


def predictions(newest: Snapshot) -> pd.DataFrame:
    """The prediction log of a snapshot in the order of its answers, each with its session's status and person."""
    if "fct_predictions" not in newest.manifest["tables"]:
        return pd.DataFrame()
    person = "person_id" if "person_id" in newest.columns("sessions") else "anonymous_id"
    told_apart = f"tenant_id || '|' || {person} as person_id"  # the same id is somebody else for another tenant
    sessions = newest.relation("sessions").project(f"tenant_id, session_id, status, {told_apart}")
    with duckdb.connect() as connection:
        connection.register("log", newest.frame("fct_predictions"))
        connection.register("sessions", sessions.df())
        return connection.sql(
            "from log left join sessions using (tenant_id, session_id) order by answered_at"
        ).df()


def _volumes(newest: Snapshot, end: pd.Timestamp) -> pd.DataFrame:
    started = newest.relation("sessions").project("tenant_id, started_at").df()
    return (
        _with_day(started, end, "started_at")
        .groupby(["tenant_id", "day"])
        .size()
        .reset_index(name="session_count")
    )


def _arrivals(newest: Snapshot) -> pd.DataFrame:
    """Records and quarantined ones of each source by the day on which its files arrived, counted from its newest.

    The server's log lands under the server's day, which may be long after that of the logs.
    """
    account = newest.relation("record_reconciliation").filter("arrived_on is not null").df()
    arrived = pd.to_datetime(account["arrived_on"])
    return pd.DataFrame(
        {
            "source": account["source"],
            "day": (arrived - arrived.groupby(account["source"]).transform("max")) // DAY,
            "quarantined_count": account["quarantined_count"],
            "record_count": account["line_count"] - account["blank_count"],
        }
    )


def _latency(newest: Snapshot) -> pd.DataFrame:
    log = newest.frame("fct_predictions").dropna(subset="latency_ms")
    by_day = log.groupby(log["answered_at"].dt.floor("D"))["latency_ms"].quantile(0.99)
    return pd.DataFrame({"day": np.arange(1 - len(by_day), 1), "p99_ms": by_day.to_numpy()})


def _newest_training(store: Store, learned: Snapshot) -> Snapshot:
    """What the latest training saw; a training whose model did not pass the gate counts, too."""
    found = snapshot.of_latest_run(store)
    try:
        return snapshot.open(found, store) if found else learned
    except UserError:
        return learned


def _last_arrival(opened: Snapshot) -> pd.Timestamp:
    """When the newest event of a session came in: a device's own clock may be days ahead."""
    events = opened.relation("events").filter("session_id is not null")
    return pd.Timestamp(events.aggregate("max(received_at)").fetchone()[0])


def _data_end(opened: Snapshot) -> pd.Timestamp:
    """When its last session ended; answers of the server are no sessions."""
    return pd.Timestamp(opened.relation("sessions").aggregate("max(ended_at)").fetchone()[0])
