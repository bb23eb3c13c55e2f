"""The monitor's input, from the newest snapshot and the snapshot that the champion learned from."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.bundles.features import naive_utc
from jollyboat.champions import champion
from jollyboat.monitoring.facts import Facts
from jollyboat.snapshots import retention, snapshot
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, hash_file, quoted, words_of
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
    (shared, *others), unjudged = _pasts(current, own, store)
    own = {tenant: version for tenant, version in own.items() if tenant not in unjudged}
    bundle, until = shared.bundle, shared.until
    sessions = _rows(newest, ("train", "open") if newest.definition else ("train",))
    live = sessions[sessions["point_at"] > until]
    end = max(live["point_at"].max(), until) if len(live) else until
    reference, live = _of_whole_days(shared.sessions, end), _with_day(live, end)
    days, log = _whole_days(live["day"], until, end), predictions(newest)
    calls = count_calls(log)
    frames = _frames([shared, *others], reference, live, log, end)
    columns = ["tenant_id", "day", *(feature["name"] for feature in bundle.schema["features"])]
    facts = Facts(
        days=days,
        schema=FeatureSchema.from_dict(bundle.schema),
        reference=reference[columns],
        live=live[columns],
        **frames,
        volumes=_volumes(newest, end),
        arrivals=_arrivals(newest),
        latency=_latency(log) if calls else pd.DataFrame(columns=["day", "p99_ms"]),
        **_arrived(newest, now),
        days_since_training=(end - _newest_training(store, shared.learned).ends_at) / DAY,
        owners=list(own),
        rows=words_of(store).rows,
    )
    return facts, {
        "champion": bundle.owner,
        "version": bundle.version,
        "own": own,
        "unjudged": unjudged,
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
    """A champion, its run, the sessions of its snapshot, and the holdout of whom it answers.

    `holdout` has KEYS and the champion's probability.
    """

    bundle: Bundle
    learned: Snapshot
    trained: run.Run
    sessions: pd.DataFrame
    holdout: pd.DataFrame
    tested_from: pd.Timestamp  # sessions since then chose and tested the model

    @property
    def until(self) -> pd.Timestamp:
        return self.sessions["point_at"].max()


def _pasts(
    current: tuple[str, str], own: Mapping[str, str], store: Store
) -> tuple[list[Past], dict[str, str]]:
    """The past of each champion, the shared one first, and why a tenant's own cannot be judged.

    A snapshot and a run are read once for all their champions.
    """
    bundles, learned, runs, unjudged = [], {}, {}, {}
    for owner, version in (current, *own.items()):
        try:
            bundle = open_bundle(store.bundle(owner, version))
            if bundle.manifest["snapshot"] not in learned:
                learned[bundle.manifest["snapshot"]] = _learned(bundle, store)
            if bundle.manifest["run"] not in runs:
                runs[bundle.manifest["run"]] = run.open(bundle.manifest["run"], store)
            bundles.append(bundle)
        except UserError as error:
            if (owner, version) == current:
                raise
            unjudged[owner] = str(error)
    sessions = {key: _rows(opened, ("train",)) for key, opened in learned.items()}
    holdouts = {key: _Holdout.of(opened) for key, opened in runs.items()}
    pasts = []
    for bundle in bundles:
        key, run_key = bundle.manifest["snapshot"], bundle.manifest["run"]
        holdout = holdouts[run_key]
        pasts.append(
            Past(
                bundle,
                learned[key],
                runs[run_key],
                sessions[key],
                holdout.answered_by(bundle),
                holdout.tested_from,
            )
        )
    return pasts, unjudged


@dataclass(frozen=True)
class _Holdout:
    """The predictions of a run for its holdout: of all candidates, and of tenants' own models."""

    trained: run.Run
    rows: pd.DataFrame
    own: dict[str, pd.DataFrame]  # by tenant, with the own model's probability
    tested_from: pd.Timestamp

    @classmethod
    def of(cls, trained: run.Run) -> "_Holdout":
        validation = trained.metrics["split"]["validation"]
        own = _by_tenant(_own_holdout(trained))
        return cls(trained, trained.predictions(), own, pd.Timestamp(validation["from"]))

    @cached_property
    def by_tenant(self) -> dict[str, pd.DataFrame]:
        return _by_tenant(self.rows)

    def answered_by(self, bundle: Bundle) -> pd.DataFrame:
        """KEYS and the bundle's probability: of its owner, or of all tenants if it is shared."""
        if bundle.owner in self.own and self._has_own_model(bundle):
            return self.own[bundle.owner][[*KEYS, "probability"]]
        rows = self.rows
        if bundle.owner != champion.SHARED:
            rows = self.by_tenant.get(bundle.owner, rows.iloc[:0])
        return rows[[*KEYS, bundle.candidate]].rename(columns={bundle.candidate: "probability"})

    def _has_own_model(self, bundle: Bundle) -> bool:
        """Whether the bundle's model is the one that the run fitted for the tenant alone."""
        folder = self.trained.own_model(bundle.owner)
        files = bundle.manifest["files"]
        return all(files.get(f"model/{path.name}") == hash_file(path) for path in folder.glob("*"))


def _own_holdout(trained: run.Run) -> pd.DataFrame:
    """The holdout of the run's models of single tenants, with the own model's probability."""
    if not (trained.folder / "tenants.parquet").exists():  # of an earlier version
        return pd.DataFrame(columns=[*KEYS, "probability"])
    return trained.own_predictions()


def _by_tenant(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return dict(iter(rows.groupby("tenant_id")))


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


def _frames(
    pasts: Sequence[Past],
    reference: pd.DataFrame,
    live: pd.DataFrame,
    log: pd.DataFrame,
    end: pd.Timestamp,
) -> dict[str, pd.DataFrame]:
    """Four frames of Facts: each tenant's rows are those of the champion that answers it.

    The shared champion is the first; `reference` has its sessions. Without any answer in the log,
    the champions score the live sessions.
    """
    owners = [past.bundle.owner for past in pasts[1:]]
    references = [_without(owners, reference), *_references(pasts[1:], end)]
    live_by_owner = _by_tenant(live) if owners else {}
    lives = [_without(owners, live)]
    lives += [live_by_owner.get(owner, live.iloc[:0]) for owner in owners]
    keys, tested, scored, tried = [*KEYS, "day", "event_count", "label"], [], [], []
    for past, before, now in zip(pasts, references, lives, strict=True):
        late = before[before["point_at"] >= past.tested_from]
        both = _score(past.bundle, late, now)
        tested.append(late[["tenant_id", "day"]].assign(score=both[: len(late)]))
        scored.append(now[keys].assign(probability=both[len(late) :]))
        tried.append(scored[-1][scored[-1]["point_at"] > past.until])
    columns, live_scores = ["tenant_id", "day", "score"], _concat(scored)
    earlier = _concat([before[keys] for before in references])
    holdouts = [_without(owners, pasts[0].holdout), *(past.holdout for past in pasts[1:])]
    return {
        "reference_scores": _concat(tested),
        "live_scores": live_scores.rename(columns={"probability": "score"})[columns],
        "holdout": _with_label(earlier.merge(_concat(holdouts), on=KEYS)),
        "answers": _answers(log, pasts, end) if len(log) else _with_label(_concat(tried)),
    }


def _references(pasts: Sequence[Past], end: pd.Timestamp) -> Iterator[pd.DataFrame]:
    """For each tenant's own champion, the tenant's sessions on the whole days of its snapshot."""
    rows_by_snapshot: dict[str, dict[str, pd.DataFrame]] = {}
    for past in pasts:
        if past.learned.id not in rows_by_snapshot:
            rows_by_snapshot[past.learned.id] = _by_tenant(_of_whole_days(past.sessions, end))
        rows = rows_by_snapshot[past.learned.id]
        yield rows.get(past.bundle.owner, _with_day(past.sessions.iloc[:0], end))


def _concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all frames; an empty one would change the types of columns."""
    return pd.concat([one for one in frames if len(one)] or frames[:1], ignore_index=True)


def _without(owners: Collection[str], rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["tenant_id"].isin(owners)] if owners else rows


def _rows(opened: Snapshot, statuses: Collection[str]) -> pd.DataFrame:
    """The rows of a snapshot with these statuses, with their `event_count`.

    Quality is compared at the same number of events. Another question than the first has no such
    number: it is 0.
    """
    is_wanted = f"status in ({', '.join(map(repr, statuses))})"
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


def _score(bundle: Bundle, *parts: pd.DataFrame) -> np.ndarray:
    """The bundle's probability for rows of features; UserError if a column is missing."""
    columns = FeatureSchema.from_dict(bundle.schema).names
    for rows in parts:
        if missing := [name for name in columns if name not in rows.columns]:
            raise UserError(
                f"The newest snapshot lacks {missing[0]}, which the champion reads. "
                "Run `make train deploy`."
            )
    model = load(bundle.model)
    scores = [model.predict_proba(rows[columns]) for rows in parts if len(rows)]
    return np.concatenate(scores) if scores else np.zeros(0)


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


def _answers(log: pd.DataFrame, pasts: Sequence[Past], end: pd.Timestamp) -> pd.DataFrame:
    """The champions' answers for sessions of people, one per session and number of events.

    Of another question: one per entity and point.
    """
    bundle, versions = pasts[0].bundle, {past.bundle.owner: past.bundle.version for past in pasts}
    log = log[log["probability"].notna()]  # not failed, and made at a prediction point
    expected = log["tenant_id"].map(versions).fillna(bundle.version)
    is_person = ~log["status"].isin(["bot", "unfit"])
    own = log[(log["model_version"] == expected) & is_person & ~log["had_outcome"]]
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
    snapshot_id = retention.of_latest_run(store)
    try:
        return snapshot.open(snapshot_id, store) if snapshot_id else learned
    except UserError:
        return learned
