"""Which sessions people are asked about, what is told of one, and how an answer becomes a line of data/raw/labels."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from duckdb import ColumnExpression, ConstantExpression, DuckDBPyRelation

from jollyboat.bundles.bundle import TENANT_ID
from jollyboat.bundles.model import LoadedModel
from jollyboat.pages.plot import moment_of
from jollyboat.snapshots import snapshot
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, write_text

KEYS = ["tenant_id", "entity_id"]
NEEDED = (*KEYS, "judgement_id", "judged_at", "judgement")
JUDGEMENTS = {  # with the key that says so
    "fit": ("f", "Fit: a person, the right outcome"),
    "not_a_person": ("n", "Not a person"),
    "outcome_true": ("t", "The outcome did happen"),
    "outcome_false": ("w", "The outcome did not happen"),
    "cannot_say": ("c", "Cannot say"),
}
KINDS = {
    "uncertain": "The model is uncertain",
    "wrong": "The model was sure, and wrong",
    "random": "Drawn at random",
}


def queue(
    store: Store, of: Callable[[str], LoadedModel | None], size: int, days: int
) -> pd.DataFrame:
    """The sessions of the last days to be asked about, in turn an uncertain one, a wrong one, one drawn at random."""
    sessions = snapshot.open_latest(store).relation("session_features").filter("status = 'train'")
    (since,) = sessions.aggregate(f"max(point_at) - interval ({days}) day").fetchone()
    rows = sessions.filter(ColumnExpression("point_at") > ConstantExpression(since)).df()
    scored = []
    for tenant, some in rows.groupby("tenant_id", sort=True):
        if (model := of(tenant)) is not None:
            scored.append(
                some.assign(probability=model.score(some), threshold=model.bundle.threshold)
            )
    if not scored:
        raise UserError("There is no champion to review: `make deploy` makes one.")
    rows = pd.concat(scored, ignore_index=True)
    drawn = np.random.default_rng(0).random(
        len(rows)
    )  # the same ones for as long as the snapshot stays
    distance = {
        "uncertain": (_log_odds(rows["probability"]) - _log_odds(rows["threshold"])).abs(),
        "wrong": -(rows["probability"] - rows["label"].astype(float)).abs(),
        "random": pd.Series(drawn, rows.index),
    }
    picked = [
        rows.assign(kind=kind, turn=by.rank(method="first")).nsmallest(size, "turn")
        for kind, by in distance.items()
    ]
    ordered = pd.concat(picked).sort_values("turn", kind="stable")
    return ordered.drop_duplicates(KEYS).head(size).reset_index(drop=True)


def unjudged(made: pd.DataFrame, done: list[dict[str, Any]]) -> pd.DataFrame:
    """The sessions of a queue that nobody has judged."""
    known = {(said["tenant_id"], said["entity_id"]) for said in done}
    return made[[pair not in known for pair in made[KEYS].itertuples(index=False, name=None)]]


def story(newest: Snapshot, row: pd.Series, model: LoadedModel) -> dict[str, Any]:
    """A session as a person reads it: what happened up to the point and after it, the answer and its reasons."""
    events = _only(
        newest.relation("events"), tenant_id=row["tenant_id"], session_id=row["entity_id"]
    )
    one = pd.DataFrame([row])
    return {
        **{name: row[name] for name in (*KEYS, "point_at", "kind", "probability", "threshold")},
        "label": bool(row["label"]),
        "reasons": model.reasons(one, [True])[0],
        "events": events.order("event_number").df().to_dict("records"),
    }


def knows(newest: Snapshot, tenant_id: str, entity_id: str) -> bool:
    """Whether a snapshot has features of this session."""
    sessions = _only(newest.relation("session_features"), tenant_id=tenant_id, entity_id=entity_id)
    return sessions.limit(1).fetchone() is not None


def judge(
    store: Store, by: str, tenant_id: str, entity_id: str, point_at: str, judgement: str
) -> str:
    """Keep one judgement of a session; returns its id."""
    if judgement not in JUDGEMENTS:
        raise UserError(f"A judgement is one of {', '.join(JUDGEMENTS)}, not {judgement!r:.80}.")
    if not re.fullmatch(TENANT_ID, tenant_id):
        raise UserError(
            f"A judgement's tenant_id has the form {TENANT_ID}, which {tenant_id!r:.80} has not."
        )
    try:
        point_at = f"{moment_of(point_at).isoformat()}Z"
    except (ValueError, OverflowError):
        raise UserError(f"A judgement's point_at is a time, not {point_at!r:.80}.") from None
    return _keep(
        store, by, tenant_id=tenant_id, entity_id=entity_id, point_at=point_at, judgement=judgement
    )


def undo(store: Store, by: str, judgement_id: str) -> str:
    """Take one judgement that stands back; returns the id of the line that says so."""
    said = next((said for said in judged(store) if said["judgement_id"] == judgement_id), None)
    if said is None:
        raise UserError(f"No judgement {judgement_id!r:.80} stands, so it cannot be undone.")
    session = {name: said.get(name, "") for name in (*KEYS, "point_at")}
    return _keep(store, by, **session, judgement="undo", undoes=judgement_id)


def _keep(store: Store, by: str, **said: str) -> str:
    """A line in a file of its own, which is complete as it appears."""
    now, judgement_id = datetime.now(UTC), uuid4().hex
    line = {"judgement_id": judgement_id, "judged_at": now.isoformat(), "by": by, **said}
    write_text(
        store.raw / "labels" / f"dt={now:%Y-%m-%d}" / f"{judgement_id}.jsonl",
        json.dumps(line) + "\n",
    )
    return judgement_id


def judged(store: Store) -> list[dict[str, Any]]:
    """The judgements that stand, oldest first, landed or not; a line that reads no more is left to the quarantine."""
    lines = []
    for path in store.raw.glob("labels/dt=*/*.jsonl"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and all(isinstance(said.get(name), str) for name in NEEDED):
                lines.append(said)
    undone = {said["undoes"] for said in lines if isinstance(said.get("undoes"), str)}
    stands = [
        said for said in lines if said["judgement"] != "undo" and said["judgement_id"] not in undone
    ]
    return sorted(stands, key=lambda said: (said["judged_at"], said["judgement_id"]))


def _only(relation: DuckDBPyRelation, **values: str) -> DuckDBPyRelation:
    """The rows that have these values, which may come from a client."""
    for name, value in values.items():
        relation = relation.filter(ColumnExpression(name) == ConstantExpression(value))
    return relation


def _log_odds(probability: pd.Series) -> pd.Series:
    kept = probability.clip(1e-9, 1 - 1e-9)
    return np.log(kept / (1 - kept))
