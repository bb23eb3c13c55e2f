"""Batch scores: the champions' bundles over a snapshot, in one vectorized pass each.

A question that is asked as of now is scored at its newest point, any other one at each entity's.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.bundles.features import confine, refuse_other_statements
from jollyboat.bundles.model import events_of, reasons_of
from jollyboat.champions.champion import current
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, read_json, write_json
from jollyboat.store.limits import core_count
from jollyboat.training.estimators import Model
from jollyboat.training.persistence import load

KEYS = ["tenant_id", "entity_id", "point_at"]
AT_POINT = ("train", "open")  # rows at their point, without the outcome
MOST_IN_A_PART = 125_000
MOST_EXPLAINED = 20
MOST_PROBABLE_FIRST = "probability desc, tenant_id, entity_id"
COLUMNS = [*KEYS, "probability", "decision", "outcome", "champion", "model_version"]


def score(snapshot: Snapshot, days: int, tenant_id: str = "", private: Collection[str] = ()) -> str:
    """Score the rows of the last days, of one tenant or all, and return the scores' id.

    Their column `outcome` says whether the outcome has followed by now; null if that is open.
    Only rows at their prediction point are scored; scores.json counts the others by status. The
    rows of a `private` tenant without a model of its own have the status `no_model`.
    The id follows from snapshot, champions and days, so equal scores are made once.
    UserError where a tenant is unknown or has no champion, or a bundle is broken.
    """
    sessions, left_out = _newest_sessions(snapshot, days, tenant_id)
    store = snapshot.store
    tenants = sorted(sessions["tenant_id"].unique())
    champions = {tenant: _champion_of(store, tenant, private) for tenant in tenants}
    if None in [one for tenant, one in champions.items() if tenant not in private]:
        raise UserError("There is no champion to score with: `make deploy` makes one.")
    is_answered = sessions["tenant_id"].map(champions).notna()
    if not is_answered.all():
        sessions, left_out["no_model"] = sessions[is_answered], int((~is_answered).sum())
        champions = {tenant: one for tenant, one in champions.items() if one}
    bundles = {names: open_bundle(store.bundle(*names)) for names in set(champions.values())}
    contents = {"snapshot": snapshot.id, "champions": champions, "days": days, "columns": COLUMNS}
    if store.question:
        contents["question"] = store.question
    scores_id = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]
    folder = store.scores / scores_id
    if not (folder / "scores.json").exists():
        scores = _score_with(bundles, champions, snapshot, sessions)
        scores = scores.merge(sessions[[*KEYS, "outcome"]], how="left", on=KEYS)
        write_scores(folder, _with_visitors(scores[COLUMNS], snapshot), MOST_PROBABLE_FIRST)
        about = {
            "rows": len(sessions),
            "left_out": left_out,
            "thresholds": sorted({bundle.threshold for bundle in bundles.values()}),
            "reasons": _explain_most_probable(bundles, snapshot, scores),
        }
        write_json(folder / "scores.json", {"id": scores_id, **about, **contents})
    return scores_id


def _with_visitors(scores: pd.DataFrame, snapshot: Snapshot) -> pd.DataFrame:
    """The scores of sessions with their visitors' ids; another question's entity says who it is."""
    if snapshot.store.question:
        return scores
    visitors = "tenant_id, session_id as entity_id, anonymous_id, user_id"
    ids = snapshot.relation("sessions").project(visitors).df()
    return scores.merge(ids, how="left", on=["tenant_id", "entity_id"])


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
            for score in rows.astype(object).where(rows.notna(), None).to_dict("records"):
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
    model = load(bundle.model)
    return _predict_parts(bundle, snapshot, entities, lambda rows: _probability(model, rows))


def _predict_parts(
    bundle: Bundle,
    snapshot: Snapshot,
    entities: pd.DataFrame,
    predict_part: Callable[[pd.DataFrame], np.ndarray],
) -> pd.DataFrame:
    """The keys of the entities with `predict_part` of the features that the bundle's SQL gives."""

    def with_keys(features: pd.DataFrame) -> pd.DataFrame:
        return features[KEYS].assign(probability=predict_part(features))

    parts = _compute_features(bundle, snapshot, entities)
    # Models predict on one thread each; the next part's features are computed meanwhile.
    with ThreadPoolExecutor(core_count()) as pool:
        return pd.concat(pool.map(with_keys, parts), ignore_index=True)


def _probability(model: Model, features: pd.DataFrame) -> np.ndarray:
    return model.predict_proba(features[model.schema.names])


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
    columns = "tenant_id, entity_id, point_at, status, label as outcome"
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


def _champion_of(store: Store, tenant: str, private: Collection[str]) -> tuple[str, str] | None:
    """The tenant's champion; where its pointer is broken the shared one, as on the server."""
    try:
        return current(store, tenant, private)
    except (UserError, OSError):
        return None if tenant in private else current(store)


def _score_with(
    bundles: Mapping[tuple[str, str], Bundle],
    champions: Mapping[str, tuple[str, str]],
    snapshot: Snapshot,
    sessions: pd.DataFrame,
) -> pd.DataFrame:
    """The scores of all sessions; the bundles that share their SQL share its features, too."""
    by_sql: dict[str, dict[tuple[str, str], Bundle]] = {}
    for names, bundle in sorted(bundles.items()):
        by_sql.setdefault(_sql_of(bundle), {})[names] = bundle
    scores, names_of = [], sessions["tenant_id"].map(champions)
    for group in by_sql.values():
        models = {names: load(bundle.model) for names, bundle in group.items()}

        def predict_part(features: pd.DataFrame, models: Mapping = models) -> np.ndarray:
            """Each row's probability by its tenant's model."""
            groups = features.groupby(features["tenant_id"].map(champions)).indices
            probability = np.empty(len(features))
            for names, places in groups.items():
                probability[places] = _probability(models[names], features.iloc[places])
            return probability

        first = next(iter(group.values()))
        rows = sessions[names_of.isin(group)]
        made = _predict_parts(first, snapshot, rows, predict_part)
        names = made["tenant_id"].map(champions)
        thresholds = {one: bundle.threshold for one, bundle in group.items()}
        scores.append(
            made.assign(
                decision=made["probability"] >= names.map(thresholds),
                champion=names.str[0],
                model_version=names.str[1],
            )
        )
    return pd.concat(scores, ignore_index=True)


def _explain_most_probable(
    bundles: Mapping[tuple[str, str], Bundle], snapshot: Snapshot, scores: pd.DataFrame
) -> list[dict[str, Any]]:
    """The reasons for each of the rows at the top of the list, with the row's ids.

    Nobody acts on a row whose outcome has followed.
    """
    keys = ["probability", *KEYS[:2]]
    has_followed = scores["outcome"].eq(True).fillna(False).astype(bool)
    waiting = scores[~has_followed]
    top = waiting.sort_values(keys, ascending=[False, True, True]).head(MOST_EXPLAINED)
    names = pd.MultiIndex.from_frame(top[["champion", "model_version"]])
    explained = []
    # Rows whose bundles share their SQL are computed together, as in `_score_with`.
    for _, rows in top.groupby([_sql_of(bundles[one]) for one in names]):
        bundle = bundles[rows["champion"].iloc[0], rows["model_version"].iloc[0]]
        features = pd.concat(_compute_features(bundle, snapshot, rows), ignore_index=True)
        features = features.merge(rows[[*KEYS, *names.names]], on=KEYS)
        for one, own in features.groupby(names.names):
            model = load(bundles[one].model)
            reasons = reasons_of(model, own[model.schema.names])
            ids = own[KEYS[:2]].to_dict("index")
            explained += [{**row, "reasons": reasons[place]} for place, row in ids.items()]
    return sorted(explained, key=lambda row: (row["tenant_id"], row["entity_id"]))


def _sql_of(bundle: Bundle) -> str:
    return json.dumps([bundle.feature_sql, bundle.lookups, bundle.question], sort_keys=True)


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
