"""Batch scores: the champions' own bundles over a snapshot, one vectorised pass each."""

import hashlib
import json
import os
from datetime import timedelta

import duckdb
import pandas as pd

from ml.candidates import load_module
from ml.schema import FeatureSchema
from rails.bundle import Bundle, open_bundle
from rails.champion import current
from rails.errors import Refused
from rails.snapshot import Snapshot
from rails.store import write_json

KEYS = ["tenant_id", "entity_id", "point_at"]
COLUMNS = [*KEYS, "probability", "decision", "champion", "model_version"]


def score(snapshot: Snapshot, days: int) -> str:
    """Score the sessions of the snapshot's last days, bots left out, below data/scores/<id>/; returns the id.

    The id follows from snapshot, champions and days, so that asking again finds the scores that stand. Raises Refused
    where a tenant has no champion, or a champion's bundle is not whole.
    """
    sessions = _newest_sessions(snapshot, days)
    champions = {tenant: _champion_of(snapshot, tenant) for tenant in sorted(sessions["tenant_id"].unique())}
    bundles = {champion: open_bundle(snapshot.store.bundle(*champion)) for champion in sorted(set(champions.values()))}
    asked = {"snapshot": snapshot.id, "champions": champions, "days": days}
    scores_id = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    folder = snapshot.store.scores / scores_id
    if not (folder / "scores.json").exists():
        scored = []
        for champion, bundle in bundles.items():
            tenants = [tenant for tenant, found in champions.items() if found == champion]
            scored.append(_score_with(bundle, snapshot, sessions[sessions["tenant_id"].isin(tenants)]))
        _write(folder, pd.concat(scored, ignore_index=True))
        write_json(folder / "scores.json", {"id": scores_id, "rows": len(sessions), **asked})
    return scores_id


def predict(bundle: Bundle, snapshot: Snapshot, entities: pd.DataFrame) -> pd.DataFrame:
    """The keys of the entities with the bundle's probability of each."""
    features = compute_features(bundle.feature_sql, list(bundle.lookups), snapshot, entities)
    module = load_module(bundle.candidate)
    columns = FeatureSchema.from_dict(bundle.schema).names
    probability = module.predict_proba(module.load(bundle.model), features[columns])
    return features[KEYS].assign(probability=probability)


def compute_features(feature_sql: str, lookups: list[str], snapshot: Snapshot, entities: pd.DataFrame) -> pd.DataFrame:
    """The features of the entities (tenant_id, entity_id) by this SQL over the snapshot's events and lookups."""
    with duckdb.connect() as connection:
        connection.execute("attach ':memory:' as warehouse; use warehouse; set TimeZone = 'UTC'")
        connection.register("asked", entities[["tenant_id", "entity_id"]])
        for table in ["events_at_point", *lookups]:
            files = [str(path) for path in snapshot.files(table)]
            only = "semi join asked using (tenant_id, entity_id)" if table == "events_at_point" else ""
            connection.execute(
                f"create table {table} as select * from read_parquet(?, hive_partitioning = false) {only}", [files]
            )
        return connection.sql(f"select * from ({feature_sql.strip().rstrip(';')}) order by tenant_id, entity_id").df()


def _newest_sessions(snapshot: Snapshot, days: int) -> pd.DataFrame:
    sessions = snapshot.relation("session_features").project("tenant_id, entity_id, point_at, status").df()
    since = sessions["point_at"].max() - timedelta(days=days)
    newest = sessions[(sessions["status"] != "bot") & (sessions["point_at"] > since)]
    if newest.empty:
        raise Refused(f"Snapshot {snapshot.id} has no session to score; put logs under data/raw, then `make data`.")
    return newest


def _champion_of(snapshot: Snapshot, tenant: str) -> tuple[str, str]:
    champion = current(snapshot.store, tenant)
    if champion is None:
        raise Refused("There is no champion to score with: `make deploy` makes one.")
    return champion


def _score_with(bundle: Bundle, snapshot: Snapshot, sessions: pd.DataFrame) -> pd.DataFrame:
    scored = predict(bundle, snapshot, sessions)
    decision = scored["probability"] >= bundle.threshold
    return scored.assign(decision=decision, champion=bundle.owner, model_version=bundle.version)[COLUMNS]


def _write(folder, scores: pd.DataFrame) -> None:
    """Both files, whole or not at all, the most probable first."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = scores.sort_values(["probability", "tenant_id", "entity_id"], ascending=[False, True, True])
    with duckdb.connect() as connection:
        connection.register("scores", ordered)
        for form in ("parquet", "csv"):
            draft = folder / f".scores.{os.getpid()}.{form}"
            connection.execute(f"copy scores to ? (format {form})", [str(draft)])
            draft.replace(folder / f"scores.{form}")
