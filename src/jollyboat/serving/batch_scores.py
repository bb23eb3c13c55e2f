"""Batch scores: the champions' bundles over a snapshot, in one vectorized pass each.

A question that is asked as of now is scored at its newest point, any other one at each entity's.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.bundles.features import confine, refuse_other_statements
from jollyboat.bundles.model import events_of
from jollyboat.champions.champion import current
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, read_json, write_json
from jollyboat.training.persistence import load
from jollyboat.training.schema import FeatureSchema

KEYS = ["tenant_id", "entity_id", "point_at"]
AT_POINT = ("train", "open")  # rows at their point, without the outcome
MOST_IN_A_PART = 125_000
MOST_PROBABLE_FIRST = "probability desc, tenant_id, entity_id"
COLUMNS = [*KEYS, "probability", "decision", "champion", "model_version"]


def score(snapshot: Snapshot, days: int, tenant_id: str = "") -> str:
    """Score the rows of the last days, of one tenant or all, and return the scores' id.

    Only rows at their prediction point are scored; scores.json counts the others by status.
    The id follows from snapshot, champions and days, so equal scores are made once.
    UserError where a tenant is unknown or has no champion, or a bundle is broken.
    """
    sessions, left_out = _newest_sessions(snapshot, days, tenant_id)
    store = snapshot.store
    tenants = sorted(sessions["tenant_id"].unique())
    champions = {tenant: _champion_of(snapshot, tenant) for tenant in tenants}
    bundles = {names: open_bundle(store.bundle(*names)) for names in set(champions.values())}
    contents = {"snapshot": snapshot.id, "champions": champions, "days": days}
    if store.question:
        contents["question"] = store.question
    scores_id = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]
    folder = store.scores / scores_id
    if not (folder / "scores.json").exists():
        scores = []
        for names, bundle in sorted(bundles.items()):
            its_tenants = [tenant for tenant in tenants if champions[tenant] == names]
            its_sessions = sessions[sessions["tenant_id"].isin(its_tenants)]
            scores.append(_score_with(bundle, snapshot, its_sessions))
        write_scores(folder, pd.concat(scores, ignore_index=True), MOST_PROBABLE_FIRST)
        counts = {"rows": len(sessions), "left_out": left_out}
        write_json(folder / "scores.json", {"id": scores_id, **counts, **contents})
    return scores_id


def latest_score(store: Store, tenant_id: str, entity_id: str) -> dict[str, Any] | None:
    """The entity's score in the newest batch about its tenant, and when that was made; or None."""
    paths = sorted(store.scores.glob("*/scores.json"), key=lambda path: -path.stat().st_mtime_ns)
    for path in paths:
        if tenant_id in read_json(path, champions=dict)["champions"]:
            with duckdb.connect() as connection:  # requests share no connection: they are threads
                rows = connection.sql(
                    "select * from read_parquet($1) where tenant_id = $2 and entity_id = $3",
                    params=[str(path.with_suffix(".parquet")), tenant_id, entity_id],
                ).df()
            made_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            for score in rows.to_dict("records"):
                point_at = score["point_at"].isoformat() + "Z"
                scored_at = made_at.isoformat(timespec="seconds")
                if "place" in rows:
                    names = ("tenant_id", "entity_id", "champion", "model_version")
                    items = rows[["item", "score", "reason"]].to_dict("records")
                    score = {name: score[name] for name in names} | {"items": items}
                return score | {"point_at": point_at, "scored_at": scored_at}
            return None
    return None


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
    events, view = snapshot.scan(snapshot.events_at_point), events_of(bundle.question)
    with duckdb.connect() as connection:
        connection.execute("attach ':memory:' as warehouse; use warehouse; set TimeZone = 'UTC'")
        keys = [name for name in KEYS if name in entities]
        connection.register("entities", entities[keys])
        connection.execute("create table requested_entities as from entities")
        for table in bundle.lookups:
            connection.execute(f"create table {table} as from {snapshot.scan(table)}")
        feature_sql = refuse_other_statements(bundle.feature_sql)
        confine(connection, folder=snapshot.store.tables)
        for part in range(part_count):
            connection.execute(
                f"create or replace view {view} as from {events} "
                f"semi join requested_entities using ({', '.join(keys)}) "
                f"where hash(entity_id) % {part_count} = {part}"
            )
            yield connection.sql(feature_sql).df()


def _newest_sessions(
    snapshot: Snapshot, days: int, tenant_id: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The sessions of the last days at their point, and how many others there are by status."""
    columns = "tenant_id, entity_id, point_at, status"
    sessions = snapshot.relation(snapshot.features).project(columns).df()
    sessions = _newest_points(sessions, snapshot.definition.get("asked_at") == "now")
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
                f"Tenant {tenant_id!r} has nothing to score in the last {days} days; "
                f"these have: {tenants}."
            )
        recent = recent[recent["tenant_id"] == tenant_id]
    left_out = recent.loc[~is_at_point, "status"].value_counts().to_dict()
    if newest.empty:
        counts = ", ".join(f"{count:,} {status}" for status, count in left_out.items()) or "none"
        raise UserError(
            f"Snapshot {snapshot.id} has no row of the last {days} days to score (others: "
            f"{counts}): put logs under data/raw, then `make data`."
        )
    return newest, left_out


def _newest_points(rows: pd.DataFrame, are_of_one_time: bool) -> pd.DataFrame:
    """Each entity's newest row; of points `are_of_one_time` only those of their tenant's newest."""
    if are_of_one_time:
        newest = rows.groupby("tenant_id")["point_at"].transform("max")
        return rows[rows["point_at"] == newest]
    rows = rows.sort_values("point_at", kind="stable")
    return rows.drop_duplicates(["tenant_id", "entity_id"], keep="last")


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


def write_scores(folder: Path, scores: pd.DataFrame, order: str) -> None:
    """Write scores.parquet and scores.csv in this order, each in one piece.

    In the CSV an apostrophe precedes an id that a spreadsheet would take for a formula.
    """
    ids = [rf"regexp_replace({name}, '^[-=+@\s]', '''\0') as {name}" for name in KEYS[:2]]
    sources = {"parquet": "from scores"}
    sources["csv"] = f"select * replace ({', '.join(ids)}) from scores"
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.register("frame", scores)
        connection.execute(f"create table scores as from frame order by {order}")
        for suffix, source in sources.items():
            draft = folder / f".scores.{os.getpid()}.{suffix}"
            connection.execute(f"copy ({source}) to ? (format {suffix})", [str(draft)])
            draft.replace(folder / f"scores.{suffix}")
