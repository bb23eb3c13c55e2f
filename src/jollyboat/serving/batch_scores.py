"""Batch scores: the champions' bundles over a snapshot, in one vectorized pass each."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import duckdb
import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.bundles.features import confine, refuse_other_statements
from jollyboat.champions.champion import current
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import UserError, write_json
from jollyboat.training.persistence import load
from jollyboat.training.schema import FeatureSchema

KEYS = ["tenant_id", "entity_id", "point_at"]
AT_POINT = ("train", "open")  # sessions that reached their point without the outcome
MOST_IN_A_PART = 125_000
COLUMNS = [*KEYS, "probability", "decision", "champion", "model_version"]


def score(snapshot: Snapshot, days: int, tenant_id: str = "") -> str:
    """Score the sessions of the last days, of one tenant or all, and return the scores' id.

    Only sessions at their prediction point are scored; scores.json counts the others by status.
    The id follows from snapshot, champions and days, so equal scores are made once.
    UserError where a tenant is unknown or has no champion, or a bundle is broken.
    """
    sessions, left_out = _newest_sessions(snapshot, days, tenant_id)
    store = snapshot.store
    tenants = sorted(sessions["tenant_id"].unique())
    champions = {tenant: _champion_of(snapshot, tenant) for tenant in tenants}
    bundles = {names: open_bundle(store.bundle(*names)) for names in set(champions.values())}
    contents = {"snapshot": snapshot.id, "champions": champions, "days": days}
    scores_id = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]
    folder = store.scores / scores_id
    if not (folder / "scores.json").exists():
        scores = []
        for names, bundle in sorted(bundles.items()):
            its_tenants = [tenant for tenant in tenants if champions[tenant] == names]
            its_sessions = sessions[sessions["tenant_id"].isin(its_tenants)]
            scores.append(_score_with(bundle, snapshot, its_sessions))
        _write(folder, pd.concat(scores, ignore_index=True))
        counts = {"rows": len(sessions), "left_out": left_out}
        write_json(folder / "scores.json", {"id": scores_id, **counts, **contents})
    return scores_id


def predict(bundle: Bundle, snapshot: Snapshot, entities: pd.DataFrame) -> pd.DataFrame:
    """The keys of the entities with the bundle's probability for each."""
    model, columns = load(bundle.model), FeatureSchema.from_dict(bundle.schema).names

    def predict_part(features: pd.DataFrame) -> pd.DataFrame:
        return features[KEYS].assign(probability=model.predict_proba(features[columns]))

    parts = _compute_features(bundle, snapshot, entities)
    # Models predict on one thread each; the next part's features are computed meanwhile.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return pd.concat(pool.map(predict_part, parts), ignore_index=True)


def _compute_features(
    bundle: Bundle, snapshot: Snapshot, entities: pd.DataFrame
) -> Iterator[pd.DataFrame]:
    """The features of the entities, in parts: a million sessions at once take 8 GB."""
    part_count = 1 + len(entities) // MOST_IN_A_PART
    events = snapshot.scan("events_at_point")
    with duckdb.connect() as connection:
        connection.execute("attach ':memory:' as warehouse; use warehouse; set TimeZone = 'UTC'")
        connection.register("entities", entities[["tenant_id", "entity_id"]])
        connection.execute("create table requested_entities as from entities")
        for table in bundle.lookups:
            connection.execute(f"create table {table} as from {snapshot.scan(table)}")
        feature_sql = refuse_other_statements(bundle.feature_sql)
        confine(connection, folder=snapshot.store.tables)
        for part in range(part_count):
            connection.execute(
                f"create or replace view events_at_point as from {events} "
                "semi join requested_entities using (tenant_id, entity_id) "
                f"where hash(entity_id) % {part_count} = {part}"
            )
            yield connection.sql(feature_sql).df()


def _newest_sessions(
    snapshot: Snapshot, days: int, tenant_id: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The sessions of the last days at their point, and how many others there are by status."""
    columns = "tenant_id, entity_id, point_at, status"
    sessions = snapshot.relation("session_features").project(columns).df()
    until = snapshot.ends_at or sessions["point_at"].max()
    since = until - timedelta(days=days)
    recent = sessions[sessions["point_at"].between(since, until, inclusive="right")]
    is_at_point = recent["status"].isin(AT_POINT)
    newest = recent[is_at_point]
    if tenant_id:
        tenants = ", ".join(sorted(newest["tenant_id"].unique())[:20])
        newest = newest[newest["tenant_id"] == tenant_id]
        if newest.empty:
            raise UserError(
                f"Tenant {tenant_id!r} has no session in the last {days} days; "
                f"these have: {tenants}."
            )
        recent = recent[recent["tenant_id"] == tenant_id]
    left_out = recent.loc[~is_at_point, "status"].value_counts().to_dict()
    if newest.empty:
        counts = ", ".join(f"{count:,} {status}" for status, count in left_out.items()) or "none"
        raise UserError(
            f"Snapshot {snapshot.id} has no session of the last {days} days to score (others: "
            f"{counts}): put logs under data/raw, then `make data`."
        )
    return newest, left_out


def _champion_of(snapshot: Snapshot, tenant: str) -> tuple[str, str]:
    champion = current(snapshot.store, tenant)
    if champion is None:
        raise UserError("There is no champion to score with: `make deploy` makes one.")
    return champion


def _score_with(bundle: Bundle, snapshot: Snapshot, sessions: pd.DataFrame) -> pd.DataFrame:
    scores = predict(bundle, snapshot, sessions)
    return scores.assign(
        decision=scores["probability"] >= bundle.threshold,
        champion=bundle.owner,
        model_version=bundle.version,
    )[COLUMNS]


def _write(folder: Path, scores: pd.DataFrame) -> None:
    """Write each file in one piece, the most probable sessions first.

    In the CSV an apostrophe precedes an id that a spreadsheet would take for a formula.
    """
    ids = [rf"regexp_replace({name}, '^[-=+@\s]', '''\0') as {name}" for name in KEYS[:2]]
    sources = {"parquet": "from scores"}
    sources["csv"] = f"select * replace ({', '.join(ids)}) from scores"
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.register("frame", scores)
        connection.execute(
            "create table scores as from frame order by probability desc, tenant_id, entity_id"
        )
        for suffix, source in sources.items():
            draft = folder / f".scores.{os.getpid()}.{suffix}"
            connection.execute(f"copy ({source}) to ? (format {suffix})", [str(draft)])
            draft.replace(folder / f"scores.{suffix}")
