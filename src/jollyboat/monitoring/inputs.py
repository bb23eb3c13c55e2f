"""The monitor's input, from the newest snapshot and the snapshot that the champion learned from."""

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

COVERED = 0.9  # of 24 hours that a day needs to count
KEYS = ["tenant_id", "entity_id", "point_at"]
DAY = pd.Timedelta(days=1)


def gather(store: Store, now: datetime) -> tuple[Facts, dict[str, Any]]:
    """The facts for `monitor.judge`, and the ids, times and counts of the report. Raises UserError.

    Days have 24 hours and end with the newest session, so that each covers all hours. Quality uses
    the server's answers; without any, the champion scores the newest sessions. A tenant with a
    champion of its own counts with that champion's answers, scores and holdout.
    """
    current = champion.current(store)
    if current is None:
        raise UserError("There is no champion to monitor. Run `make deploy`.")
    own, newest = champion.own(store), snapshot.open_latest(store)
    shared, *others = [
        _past(open_bundle(store.bundle(*key)), store) for key in (current, *own.items())
    ]
    bundle, until = shared.bundle, shared.until
    sessions = _rows(newest, ("train", "open") if newest.definition else ("train",))
    live = sessions[sessions["point_at"] > until]
    end = max(live["point_at"].max(), until) if len(live) else until
    reference, live = _of_whole_days(shared.sessions, end), _with_day(live, end)
    days, log = _whole_days(live["day"], until, end), predictions(newest)
    calls = count_calls(log)
    frames = [_champion_frames(past, live, log, end, own) for past in (shared, *others)]
    columns = ["tenant_id", "day", *(feature["name"] for feature in bundle.schema["features"])]
    facts = Facts(
        days=days,
        schema=FeatureSchema.from_dict(bundle.schema),
        reference=reference[columns],
        live=live[columns],
        **{name: pd.concat([one[name] for one in frames], ignore_index=True) for name in frames[0]},
        volumes=_volumes(newest, end),
        arrivals=_arrivals(newest),
        latency=_latency(log) if calls else pd.DataFrame(columns=["day", "p99_ms"]),
        **_arrived(newest, now),
        days_since_training=(end - _newest_training(store, shared.learned).ends_at) / DAY,
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


def health(newest: Snapshot, log: pd.DataFrame, now: datetime, days_since_training: float) -> Facts:
    """The facts of `monitor.health_checks` alone: about the data and the server's answers."""
    rows = pd.DataFrame(columns=["tenant_id", "day"])
    names = ("reference", "live", "reference_scores", "live_scores", "holdout", "answers")
    return Facts(
        days=[0],
        schema=FeatureSchema(()),
        **dict.fromkeys(names, rows),
        volumes=rows,
        arrivals=_arrivals(newest),
        latency=_latency(log),
        days_since_training=days_since_training,
        **_arrived(newest, now),
    )


def _arrived(newest: Snapshot, now: datetime) -> dict[str, Any]:
    """How old the newest event is, and when it arrived."""
    age = pd.Timestamp(naive_utc(now)) - newest.received_until
    last_arrival = newest.received_until.isoformat(timespec="minutes")
    return {"age_hours": age / pd.Timedelta(hours=1), "last_arrival": last_arrival}


@dataclass(frozen=True)
class Past:
    """A champion, its run and that run's sessions: of all tenants, or of the owner alone."""

    bundle: Bundle
    learned: Snapshot
    trained: run.Run
    sessions: pd.DataFrame

    @property
    def until(self) -> pd.Timestamp:
        return self.sessions["point_at"].max()


def _past(bundle: Bundle, store: Store) -> Past:
    learned = _learned(bundle, store)
    tenant = "" if bundle.owner == champion.SHARED else bundle.owner
    sessions = _rows(learned, ("train",), tenant)
    return Past(bundle, learned, run.open(bundle.manifest["run"], store), sessions)


def _learned(bundle: Bundle, store: Store) -> Snapshot:
    try:
        return snapshot.open(bundle.manifest["snapshot"], store)
    except UserError as error:
        remedy = "Run `make train deploy`."
        if bundle.owner != champion.SHARED:
            remedy = (
                f"Promote a new one, or delete {store.champion(bundle.owner)}: then the shared "
                f"model answers {bundle.owner}."
            )
        raise UserError(
            f"Snapshot {bundle.manifest['snapshot']}, which champion {bundle.version} learned "
            "from, does not exist any more (`jollyboat erase` removes snapshots), so there is "
            f"nothing to compare with. {remedy}"
        ) from error


def _champion_frames(
    past: Past, live: pd.DataFrame, log: pd.DataFrame, end: pd.Timestamp, owners: Collection[str]
) -> dict[str, pd.DataFrame]:
    """Four frames of Facts, for the tenants that this champion answers."""
    bundle, split = past.bundle, past.trained.metrics["split"]
    reference = _answered_by(bundle.owner, _of_whole_days(past.sessions, end), owners)
    live = _answered_by(bundle.owner, live, owners)
    tested = reference[reference["point_at"] >= pd.Timestamp(split["validation"]["from"])]
    holdout = past.trained.predictions()[[*KEYS, bundle.candidate]]
    holdout = holdout.rename(columns={bundle.candidate: "probability"})
    scored = live.assign(probability=_score(bundle, live))
    if len(log):
        answers = _answers(_answered_by(bundle.owner, log, owners), bundle, end)
    else:
        answers = _with_label(scored[scored["point_at"] > past.until])
    live_scores = scored.rename(columns={"probability": "score"})
    columns = ["tenant_id", "day", "score"]
    return {
        "reference_scores": tested.assign(score=_score(bundle, tested))[columns],
        "live_scores": live_scores[columns],
        "holdout": _with_label(reference.merge(holdout, on=KEYS)),
        "answers": answers,
    }


def _answered_by(owner: str, rows: pd.DataFrame, owners: Collection[str]) -> pd.DataFrame:
    """The rows of the owner of a champion, or of all tenants without their own champion."""
    return rows[rows["tenant_id"] == owner if owner in owners else ~rows["tenant_id"].isin(owners)]


def _rows(opened: Snapshot, statuses: Collection[str], tenant: str = "") -> pd.DataFrame:
    """The rows of a snapshot with these statuses, of one tenant or all, with their `event_count`.

    Quality is compared at the same number of events. Another question than the first has no such
    number: it is 0.
    """
    of_tenant = f"and tenant_id = '{quoted(tenant)}'" if tenant else ""
    is_wanted = f"status in ({', '.join(map(repr, statuses))}) {of_tenant}"
    rows = opened.relation(opened.features).filter(is_wanted).df()
    if opened.definition:
        return rows.assign(event_count=0)
    if "event_count" in rows:
        return rows
    numbers = "tenant_id, session_id as entity_id, point_number as event_count"
    return rows.merge(opened.relation("sessions").project(numbers).df(), on=KEYS[:2])


def _with_day(rows: pd.DataFrame, end: pd.Timestamp, at: str = "point_at") -> pd.DataFrame:
    return rows.assign(day=-((end - rows[at]) // DAY).astype(int))


def _of_whole_days(sessions: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    """The sessions with their day, without partly covered days."""
    rows, at = _with_day(sessions, end), sessions["point_at"]
    return rows[rows["day"].isin(_whole_days(rows["day"], at.min(), end, at.max()))]


def _whole_days(
    days: pd.Series, begin: pd.Timestamp, end: pd.Timestamp, until: pd.Timestamp | None = None
) -> list[int]:
    """The days from the first to the last, also empty ones, that `begin` to `until` covers."""
    if days.empty:
        return []
    whole = []
    for day in range(days.min(), days.max() + 1):
        first, last = end + (day - 1) * DAY, end + day * DAY
        if min(until or last, last) - max(begin, first) >= COVERED * DAY:
            whole.append(day)
    return whole


def _score(bundle: Bundle, rows: pd.DataFrame) -> np.ndarray:
    """The bundle's probability for rows of features; UserError if a column is missing."""
    columns = FeatureSchema.from_dict(bundle.schema).names
    if missing := [name for name in columns if name not in rows.columns]:
        raise UserError(
            f"The newest snapshot lacks {missing[0]}, which the champion reads. "
            "Run `make train deploy`."
        )
    return load(bundle.model).predict_proba(rows[columns])


def _with_label(rows: pd.DataFrame) -> pd.DataFrame:
    columns = ["tenant_id", "day", "event_count", "probability", "label"]
    return rows[columns].assign(label=rows["label"].astype(float))


def count_calls(log: pd.DataFrame) -> list[dict[str, Any]]:
    """The number of calls and the last one by tenant."""
    if log.empty:
        return []
    calls = log.groupby("tenant_id")["answered_at"].agg(["size", "max"]).reset_index()
    return [
        {"tenant_id": tenant, "count": int(n), "last": str(last)}
        for tenant, n, last in calls.itertuples(index=False)
    ]


def _answers(log: pd.DataFrame, bundle: Bundle, end: pd.Timestamp) -> pd.DataFrame:
    """This champion's answers for sessions of people, one per session and number of events.

    Of another question: one per entity and point.
    """
    log = log[log["probability"].notna()]  # not failed, and made at a prediction point
    is_own = log["model_version"] == bundle.version
    is_person = ~log["status"].isin(["bot", "unfit"])
    own = log[is_own & is_person & ~log["had_outcome"]]
    own = _with_day(own.drop_duplicates(_one_answer(bundle), keep="last"), end)
    if bundle.question:
        own = own.assign(event_count=0)
    return _with_label(own.rename(columns={"outcome": "label"}))


def _one_answer(bundle: Bundle) -> list[str]:
    return KEYS if bundle.question else [*KEYS[:2], "event_count"]


def predictions(newest: Snapshot) -> pd.DataFrame:
    """The question's prediction log in order of answers, with session's status and person.

    The person of another question than the first is its entity.
    """
    if "fct_predictions" not in newest.manifest["tables"]:
        return pd.DataFrame()
    question = newest.store.question
    if question:
        return (
            newest.relation("fct_predictions")
            .query(
                "log",
                "select *, null as status, tenant_id || '|' || entity_id as person_id from log "
                f"where question = '{quoted(question)}' order by answered_at",
            )
            .df()
        )
    is_own = "where question is null " if "question" in newest.columns("fct_predictions") else ""
    person = "person_id" if "person_id" in newest.columns("sessions") else "anonymous_id"
    log, sessions = newest.scan("fct_predictions"), newest.scan("sessions")
    with duckdb.connect() as connection:
        # The same id is another person at another tenant. The join reads the files: a data frame
        # would give a column without any value the type INT32.
        return connection.sql(
            f"select log.*, status, tenant_id || '|' || sessions.{person} as person_id "
            f"from {log} as log left join {sessions} as sessions using (tenant_id, session_id) "
            f"{is_own}order by answered_at"
        ).df()


def _volumes(newest: Snapshot, end: pd.Timestamp) -> pd.DataFrame:
    started = newest.relation("sessions").project("tenant_id, started_at").df()
    by_day = _with_day(started, end, "started_at").groupby(["tenant_id", "day"])
    return by_day.size().reset_index(name="session_count")


def _arrivals(newest: Snapshot) -> pd.DataFrame:
    """Records and quarantined ones by source and day of arrival, counted from its last busy day.

    A busy day has at least 5 % of a usual day's records, as in the model int_data_end; later days
    do not count. The server's prediction log arrives on the server's day, which may be long after
    the logs'.
    """
    account = newest.relation("record_reconciliation").filter("arrived_on is not null")
    return account.query(
        "account",
        """
        with by_day as (
            select source, arrived_on, cast(sum(quarantined_count) as bigint) as quarantined_count,
                cast(sum(line_count - blank_count) as bigint) as record_count
            from account group by all),
        usual as (
            select *, 0.05 * quantile_disc(record_count, 0.75) over (partition by source) as fewest
            from by_day),
        dated as (
            select *, date_diff('day', max(arrived_on) filter (where record_count >= fewest)
                over (partition by source), arrived_on) as day
            from usual)
        select source, day, quarantined_count, record_count from dated
        where day <= 0 order by source, day""",
    ).df()


def _latency(log: pd.DataFrame) -> pd.DataFrame:
    log = log.dropna(subset="latency_ms")
    by_day = log.groupby(log["answered_at"].dt.floor("D"))["latency_ms"].quantile(0.99)
    return pd.DataFrame({"day": np.arange(1 - len(by_day), 1), "p99_ms": by_day.to_numpy()})


def _newest_training(store: Store, learned: Snapshot) -> Snapshot:
    """The snapshot of the latest training run, even if its model did not pass the gate."""
    snapshot_id = snapshot.of_latest_run(store)
    try:
        return snapshot.open(snapshot_id, store) if snapshot_id else learned
    except UserError:
        return learned
