"""Run in a project over a store: are features and score of sessions that are sent the snapshot's, value for value?

Prints as JSON how many sessions, days and log-ins midway were compared, and how many values differ: sent in order, and
unordered, repeated and with fields nobody knows; with the bundle's SQL, and with one constant of it changed.
"""

import json
import random

import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import open_bundle
from jollyboat.bundles.features import FeatureQuery, rows_of_request
from jollyboat.bundles.model import LoadedModel
from jollyboat.champions.champion import current
from jollyboat.serving import batch_scores
from jollyboat.snapshots import snapshot as snapshots
from jollyboat.store import default_store

SESSIONS, TOLERANCE = 1_000, 1e-9
KEYS = ["tenant_id", "entity_id"]


def main() -> None:
    store = default_store()
    snapshot = snapshots.open_latest(store)
    bundle = open_bundle(store.bundle(*current(store)))
    features = snapshot.frame("session_features")
    requested = features[features["status"] == "train"].sample(SESSIONS, random_state=7)[KEYS]
    late = features[features["entity_id"].isin(late_sessions(snapshot))][KEYS]
    requested = pd.concat([requested, late]).drop_duplicates().reset_index(drop=True)
    columns = [feature["name"] for feature in bundle.schema["features"]]
    expected = requested.merge(features, how="left")[columns]
    scores = requested.merge(batch_scores.predict(bundle, snapshot, requested), how="left")[
        "probability"
    ].to_numpy()
    events = snapshot.rows_of("events_at_point", requested)
    sessions = sent(requested, events)
    files = {name: snapshot.files(name) for name in bundle.lookups}
    model, mangled = LoadedModel(bundle, files), [mangle(session) for session in sessions]
    report = {
        "sessions": len(requested),
        "late": len(late),
        "days": int(events["point_at"].dt.date.nunique()),
    }
    existing = events.groupby(KEYS)["user_id"].agg(["count", "size"])
    report["log_ins_midway"] = int(
        ((existing["count"] > 0) & (existing["count"] < existing["size"])).sum()
    )
    for name, chosen in (("in_order", sessions), ("mangled", mangled)):
        report[f"features_differing_{name}"] = differing(expected, model.features(chosen)[columns])
        actual = np.array([each.probability for each in model.predict(chosen)])
        report[f"scores_differing_{name}"] = int((np.abs(actual - scores) > TOLERANCE).sum())
    changed = FeatureQuery(
        bundle.feature_sql.replace("'cart_add'", "'cart_remove'"), bundle.lookups, files
    )
    rows = [
        rows_of_request(place, tenant, events) for place, (tenant, _, events) in enumerate(sessions)
    ]
    report["features_differing_changed"] = differing(expected, changed.run(rows).infer_objects())
    print(json.dumps(report))


def late_sessions(snapshot) -> list[str]:
    return [
        row[0]
        for row in snapshot.relation("events")
        .filter("event_type = 'hologram'")
        .project("session_id")
        .fetchall()
    ]


def sent(requested: pd.DataFrame, events: pd.DataFrame) -> list[tuple]:
    by_session = dict(iter(events.groupby(KEYS, sort=False)))
    unsent = ["tenant_id", "entity_id", "point_at", "event_number", "source"]
    return [
        (*key, by_session[key].sort_values("event_number").drop(columns=unsent).to_dict("records"))
        for key in requested.itertuples(index=False, name=None)
    ]


def mangle(session: tuple) -> tuple:
    """The same session, its events out of order, some of them twice, each with a field that nobody knows.

    Events of one time keep their order by `sequence`.
    """
    tenant, entity, events = session
    events = [{**event, "sequence": number} for number, event in enumerate(events)]
    dice = random.Random(entity)
    twice = [*events, *dice.sample(events, len(events) // 2)]
    dice.shuffle(twice)
    return tenant, entity, [{**event, "colour": "red"} for event in twice]


def differing(expected: pd.DataFrame, actual: pd.DataFrame) -> int:
    count = 0
    for name in expected.columns:
        one, other = expected[name], actual[name]
        absent = one.isna().to_numpy() & other.isna().to_numpy()
        if pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other):
            gap = one.to_numpy(dtype=float, na_value=np.nan) - other.to_numpy(
                dtype=float, na_value=np.nan
            )
            same = absent | (np.abs(gap) <= TOLERANCE)
        else:
            same = absent | (one.astype(object).to_numpy() == other.astype(object).to_numpy())
        count += int((~same).sum())
    return count


if __name__ == "__main__":
    main()
