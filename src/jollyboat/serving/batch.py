"""Batch scores: the champions' own bundles over a snapshot, one vectorised pass each."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import duckdb
import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.champions.champion import current
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import write_json
from jollyboat.store.errors import UserError
from jollyboat.training.persistence import load
from jollyboat.training.schema import FeatureSchema

KEYS = ["tenant_id", "entity_id", "point_at"]
MOST_IN_A_PART = 125_000
COLUMNS = [*KEYS, "probability", "decision", "champion", "model_version"]


def score(snapshot: Snapshot, days: int, tenant_id: str = "") -> str:
    """Score the sessions of the snapshot's last days (of one tenant), bots left out, below data/scores/<id>/; returns
    the id, which follows from snapshot, champions and days, so that asking again finds the scores that stand.

    Raises UserError where a tenant is unknown or has no champion, or a champion's bundle is not whole.
    """
    sessions = _newest_sessions(snapshot, days, tenant_id)
    champions = {
        tenant: _champion_of(snapshot, tenant) for tenant in sorted(sessions["tenant_id"].unique())
    }
    bundles = {
        champion: open_bundle(snapshot.store.bundle(*champion))
        for champion in sorted(set(champions.values()))
    }
    asked = {"snapshot": snapshot.id, "champions": champions, "days": days}
    scores_id = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    folder = snapshot.store.scores / scores_id
    if not (folder / "scores.json").exists():
        scored = []
        for champion, bundle in bundles.items():
            tenants = [tenant for tenant, found in champions.items() if found == champion]
            scored.append(
                _score_with(bundle, snapshot, sessions[sessions["tenant_id"].isin(tenants)])
            )
        _write(folder, pd.concat(scored, ignore_index=True))
        write_json(folder / "scores.json", {"id": scores_id, "rows": len(sessions), **asked})
    return scores_id


def predict(bundle: Bundle, snapshot: Snapshot, entities: pd.DataFrame) -> pd.DataFrame:
    """The keys of the entities with the bundle's probability of each."""
    model, columns = load(bundle.model), FeatureSchema.from_dict(bundle.schema).names

    def scored(features: pd.DataFrame) -> pd.DataFrame:
        return features[KEYS].assign(probability=model.predict_proba(features[columns]))

    parts = compute_features(bundle.feature_sql, list(bundle.lookups), snapshot, entities)
    # Threads, for models predict on one each; the next part's features are computed meanwhile.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return pd.concat(pool.map(scored, parts), ignore_index=True)


def compute_features(
    feature_sql: str, lookups: list[str], snapshot: Snapshot, entities: pd.DataFrame
) -> Iterator[pd.DataFrame]:
    """The features of the entities (tenant_id, entity_id) by this SQL over the snapshot's events and lookups, in parts
    that fit in memory: in one, a million sessions take 8 GB.
    """
    parts = 1 + len(entities) // MOST_IN_A_PART
    with duckdb.connect() as connection:
        connection.execute("attach ':memory:' as warehouse; use warehouse; set TimeZone = 'UTC'")
        connection.register("entities", entities[["tenant_id", "entity_id"]])
        connection.execute("create table asked as from entities")
        for table in lookups:
            connection.execute(f"create table {table} as from {snapshot.scan(table)}")
        for number in range(parts):
            connection.execute(
                f"create or replace view events_at_point as from {snapshot.scan('events_at_point')} "
                f"semi join asked using (tenant_id, entity_id) where hash(entity_id) % {parts} = {number}"
            )
            yield connection.sql(feature_sql.strip().rstrip(";")).df()


def _newest_sessions(snapshot: Snapshot, days: int, tenant_id: str) -> pd.DataFrame:
    sessions = (
        snapshot.relation("session_features").project("tenant_id, entity_id, point_at, status").df()
    )
    since = sessions["point_at"].max() - timedelta(days=days)
    newest = sessions[(sessions["status"] != "bot") & (sessions["point_at"] > since)]
    if tenant_id and tenant_id not in (known := sorted(newest["tenant_id"].unique())):
        there_are = ", ".join(known[:20])
        raise UserError(
            f"Tenant {tenant_id!r} has no session in the last {days} days; these have: {there_are}."
        )
    if tenant_id:
        newest = newest[newest["tenant_id"] == tenant_id]
    if newest.empty:
        raise UserError(
            f"Snapshot {snapshot.id} has no session to score; put logs under data/raw, then `make data`."
        )
    return newest


def _champion_of(snapshot: Snapshot, tenant: str) -> tuple[str, str]:
    champion = current(snapshot.store, tenant)
    if champion is None:
        raise UserError("There is no champion to score with: `make deploy` makes one.")
    return champion


def _score_with(bundle: Bundle, snapshot: Snapshot, sessions: pd.DataFrame) -> pd.DataFrame:
    scored = predict(bundle, snapshot, sessions)
    decision = scored["probability"] >= bundle.threshold
    return scored.assign(decision=decision, champion=bundle.owner, model_version=bundle.version)[
        COLUMNS
    ]


def _write(folder, scores: pd.DataFrame) -> None:
    """Both files, whole or not at all, the most probable first."""
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.register("scored", scores)
        connection.execute(
            "create table scores as from scored order by probability desc, tenant_id, entity_id"
        )
        for form in ("parquet", "csv"):
            draft = folder / f".scores.{os.getpid()}.{form}"
            connection.execute(f"copy scores to ? (format {form})", [str(draft)])
            draft.replace(folder / f"scores.{form}")
