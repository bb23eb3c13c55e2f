"""Review: the sessions that people judge, and judgements as lines of data/raw/labels."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from duckdb import ColumnExpression, ConstantExpression, DuckDBPyRelation

from jollyboat.bundles.model import LoadedModel
from jollyboat.pages.plot import moment_of
from jollyboat.snapshots import snapshot
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import PROJECT, TENANT_ID, Store, UserError, write_text
from jollyboat.store.locks import locked

KEYS = ["tenant_id", "entity_id"]
NEEDED = (*KEYS, "judgement_id", "judged_at", "judgement")
GUIDELINES = "docs/review-guidelines.md"  # of the project
LONGEST_COMMENT, LONGEST_NAME = 1_000, 80  # characters
JUDGEMENTS = {  # with the key on the keyboard; @outcome@ is the word in project.toml
    "fit": ("f", "Yes, both are right"),
    "not_a_person": ("n", "Not a person"),
    "outcome_true": ("t", "The @outcome@ happened"),
    "outcome_false": ("w", "The @outcome@ did not happen"),
    "cannot_say": ("c", "Cannot say"),
}
KINDS = {
    "uncertain": "The model is uncertain",
    "wrong": "The model was certain but wrong",
    "random": "Drawn at random",
}


def read_guidelines(project: Path = PROJECT) -> list[str]:
    """The paragraphs of the team's guidelines; none where the project has no such file."""
    try:
        text = (project / GUIDELINES).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def queue(
    store: Store, of: Callable[[str], LoadedModel | None], size: int, days: int
) -> pd.DataFrame:
    """The sessions of the last days to judge: in turn an uncertain, a wrong and a random one."""
    sessions = snapshot.open_latest(store).relation("session_features").filter("status = 'train'")
    (since,) = sessions.aggregate(f"max(point_at) - interval ({days}) day").fetchone()
    rows = sessions.filter(ColumnExpression("point_at") > ConstantExpression(since)).df()
    scored = []
    for tenant, group in rows.groupby("tenant_id", sort=True):
        if (model := of(tenant)) is not None:
            threshold = model.bundle.threshold
            scored.append(group.assign(probability=model.score(group), threshold=threshold))
    if not scored:
        raise UserError("There is no champion to review. Run `make deploy`.")
    rows = pd.concat(scored, ignore_index=True)
    random = np.random.default_rng(0).random(len(rows))  # the same for each call on a snapshot
    distance = {
        "uncertain": (_log_odds(rows["probability"]) - _log_odds(rows["threshold"])).abs(),
        "wrong": -(rows["probability"] - rows["label"].astype(float)).abs(),
        "random": pd.Series(random, rows.index),
    }
    picked = [
        rows.assign(kind=kind, turn=by.rank(method="first")).nsmallest(size, "turn")
        for kind, by in distance.items()
    ]
    ordered = pd.concat(picked).sort_values("turn", kind="stable")
    return ordered.drop_duplicates(KEYS).head(size).reset_index(drop=True)


def unjudged(sessions: pd.DataFrame, judgements: list[dict[str, Any]]) -> pd.DataFrame:
    """The sessions without a judgement."""
    done = {(line["tenant_id"], line["entity_id"]) for line in judgements}
    keys = sessions[KEYS].itertuples(index=False, name=None)
    return sessions[[key not in done for key in keys]]


def story(newest: Snapshot, row: pd.Series, model: LoadedModel) -> dict[str, Any]:
    """A session for a reviewer: its events, the probability, the reasons and the outcome."""
    events = newest.relation("events")
    events = _where(events, tenant_id=row["tenant_id"], session_id=row["entity_id"])
    return {
        **{name: row[name] for name in (*KEYS, "point_at", "kind", "probability", "threshold")},
        "label": bool(row["label"]),
        "reasons": model.reasons(pd.DataFrame([row]), [True])[0],
        "events": events.order("event_number").df().to_dict("records"),
    }


def knows(newest: Snapshot, tenant_id: str, entity_id: str) -> bool:
    """Whether the snapshot has features of this session."""
    sessions = newest.relation("session_features")
    sessions = _where(sessions, tenant_id=tenant_id, entity_id=entity_id)
    return sessions.limit(1).fetchone() is not None


def judge(
    store: Store,
    by: str,
    tenant_id: str,
    entity_id: str,
    point_at: str,
    judgement: str,
    judgement_id: str = "",
    comment: str = "",
) -> str:
    """Write one judgement of a session; returns its id.

    A person judges a session once: a further judgement is not written, and the id of the first is
    returned. To judge it again, undo the first. `judgement_id` is that of the form, which counts
    once however often it is sent.
    """
    if judgement_id and not re.fullmatch("[0-9a-f]{32}", judgement_id):
        raise UserError(f"A judgement's id has 32 hex digits, not {judgement_id!r:.80}.")
    if judgement not in JUDGEMENTS:
        raise UserError(f"A judgement is one of {', '.join(JUDGEMENTS)}, not {judgement!r:.80}.")
    if not re.fullmatch(TENANT_ID, tenant_id):
        raise UserError(
            f"A judgement's tenant_id has the form {TENANT_ID}, which {tenant_id!r:.80} does not."
        )
    try:
        point_at = f"{moment_of(point_at).isoformat()}Z"
    except (ValueError, OverflowError):
        raise UserError(f"A judgement's point_at is a time, not {point_at!r:.80}.") from None
    if len(comment) > LONGEST_COMMENT:
        raise UserError(
            f"A comment has at most {LONGEST_COMMENT:,} characters, not {len(comment):,}."
        )
    fields = {"tenant_id": tenant_id, "entity_id": entity_id, "point_at": point_at}
    fields |= {"judgement": judgement} | ({"comment": comment} if comment else {})
    with locked(store.root / ".review.lock"):
        if judgement_id and any(store.raw.glob(f"labels/dt=*/{judgement_id}.jsonl")):
            return judgement_id
        for line in judged(store):
            if (line.get("by"), line["tenant_id"], line["entity_id"]) == (by, tenant_id, entity_id):
                return line["judgement_id"]
        return _write(store, by, judgement_id or uuid4().hex, **fields)


def undo(store: Store, by: str, judgement_id: str) -> str:
    """Undo one judgement that is in effect; returns the id of the undo."""
    for line in judged(store):
        if line["judgement_id"] == judgement_id:
            session = {name: line.get(name, "") for name in (*KEYS, "point_at")}
            undo_id = uuid4().hex
            return _write(store, by, undo_id, **session, judgement="undo", undoes=judgement_id)
    raise UserError(f"No judgement {judgement_id!r:.80} is in effect, so it cannot be undone.")


def _write(store: Store, by: str, judgement_id: str, **fields: str) -> str:
    """Write a line in a file of its own, so that the file is complete when it appears."""
    now = datetime.now(UTC)
    line = {"judgement_id": judgement_id, "judged_at": now.isoformat(), "by": by, **fields}
    path = store.raw / "labels" / f"dt={now:%Y-%m-%d}" / f"{judgement_id}.jsonl"
    write_text(path, json.dumps(line) + "\n")
    return judgement_id


def judged(store: Store) -> list[dict[str, Any]]:
    """The judgements in effect, oldest first; unreadable lines are left to the quarantine."""
    lines = []
    for path in store.raw.glob("labels/dt=*/*.jsonl"):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and all(isinstance(line.get(name), str) for name in NEEDED):
                lines.append(line)
    undone = {line["undoes"] for line in lines if isinstance(line.get("undoes"), str)}
    in_effect = [
        line for line in lines if line["judgement"] != "undo" and line["judgement_id"] not in undone
    ]
    return sorted(in_effect, key=lambda line: (line["judged_at"], line["judgement_id"]))


def _where(relation: DuckDBPyRelation, **values: str) -> DuckDBPyRelation:
    """The rows with these values, which may come from a client."""
    for name, value in values.items():
        relation = relation.filter(ColumnExpression(name) == ConstantExpression(value))
    return relation


def _log_odds(probability: pd.Series) -> pd.Series:
    kept = probability.clip(1e-9, 1 - 1e-9)
    return np.log(kept / (1 - kept))
