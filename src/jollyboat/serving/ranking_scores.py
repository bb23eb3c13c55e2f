"""Batch scores of a ranking: the best items of each session that is open at the end of the data."""

import hashlib
import json
from collections.abc import Collection
from contextlib import closing
from datetime import timedelta

import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.champions.champion import current
from jollyboat.ranking import rankers
from jollyboat.ranking.evaluate import COUNT
from jollyboat.ranking.learner import pair_query
from jollyboat.ranking.pairs import KEYS
from jollyboat.ranking.recommend import recommend
from jollyboat.serving.batch_scores import write_scores
from jollyboat.serving.champions import read_withdrawn
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import UserError, write_json

COLUMNS = [*KEYS, "place", "item", "score", "reason", "champion", "model_version"]


def score(snapshot: Snapshot, days: int, tenant_id: str = "", private: Collection[str] = ()) -> str:
    """Rank the items for the newest point of each open session, and return the scores' id.

    `private` tenants have no ranking, for it is of the shared model. The id follows from snapshot,
    champions, days and withdrawn items, so equal scores are made once. UserError where there is no
    champion, or its bundle is broken.
    """
    store, withdrawn = snapshot.store, read_withdrawn(snapshot.store.withdrawn)
    points = _open_points(snapshot, days, tenant_id)
    points = points[~points["tenant_id"].isin(private)]
    tenants = sorted(points["tenant_id"].unique())
    champions = {tenant: current(store, tenant) for tenant in [*tenants, tenant_id or "shared"]}
    if None in champions.values():
        raise UserError("There is no champion to score with: `make deploy` makes one.")
    bundles = {names: open_bundle(store.bundle(*names)) for names in set(champions.values())}
    contents = {
        "question": store.question,
        "snapshot": snapshot.id,
        "champions": {tenant: champions[tenant] for tenant in tenants},
        "days": days,
        "withdrawn": sorted(withdrawn),
    }
    scores_id = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]
    folder = store.scores / scores_id
    if not (folder / "scores.json").exists():
        frames = [
            _recommend(bundle, snapshot, points[points["tenant_id"].map(champions) == names])
            for names, bundle in sorted(bundles.items())
        ]
        scores = pd.concat(frames, ignore_index=True)
        scores = scores[~scores["item"].isin(withdrawn)]
        scores["place"] = scores.groupby(KEYS).cumcount() + 1
        write_scores(folder, scores[scores["place"] <= COUNT], "all")
        about = {"id": scores_id, "is_ranking": True, "rows": len(points), "count": COUNT}
        write_json(folder / "scores.json", about | contents)
    return scores_id


def _open_points(snapshot: Snapshot, days: int, tenant_id: str) -> pd.DataFrame:
    """The newest point of each session of the last days that may go on."""
    points, until = snapshot.frame(snapshot.features), snapshot.ends_at
    columns = "tenant_id, session_id as entity_id"
    is_open = snapshot.relation("sessions").filter("is_open").project(columns).df()
    points = points.sort_values("point_at", kind="stable").merge(is_open, on=KEYS[:2])
    points = points[points["point_at"] > until - timedelta(days=days)]
    if tenant_id:
        if tenant_id not in set(points["tenant_id"]):
            raise UserError(f"Tenant {tenant_id!r} has no open session in the last {days} days.")
        points = points[points["tenant_id"] == tenant_id]
    return points.drop_duplicates(KEYS[:2], keep="last")


def _recommend(bundle: Bundle, snapshot: Snapshot, points: pd.DataFrame) -> pd.DataFrame:
    """The champion's order of all candidates of these points."""
    if points.empty:
        return pd.DataFrame(columns=COLUMNS)
    with closing(pair_query(snapshot, bundle.feature_sql)) as query:
        pairs = query.run(points)
    best = recommend(rankers.load(bundle.model), pairs.frame, len(pairs.frame))
    keys = pairs.points[KEYS].loc[best["point"]].reset_index(drop=True)
    best = pd.concat([keys, best.drop(columns="point")], axis=1)
    return best.assign(champion=bundle.owner, model_version=bundle.version)[COLUMNS]
