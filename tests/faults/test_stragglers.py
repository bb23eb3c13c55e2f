"""A few sessions with a wrong clock move no figure: "now" is where the data is."""

import json
import re

import duckdb
import pytest
from runs import run

from demo import unwrap
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, read_json

pytestmark = pytest.mark.faults


def test_a_session_long_after_the_others_is_named_and_moves_no_figure(untouched, copied):
    store = Store(copied)
    before, scored = snapshot.open_latest(store), rows_scored(store)
    late = [
        {
            "event": {"id": f"late-{n}", "type": "page_view", "ts": f"2026-01-21T10:{n:02d}:00Z"},
            "session": {"id": "late"},
            "shop": before.frame("sessions")["tenant_id"][0],
            "visitor": {"anonymous_id": "late"},
        }
        for n in range(12)
    ]
    file = copied / "raw/web/dt=2026-01-21/late.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(line) + "\n" for line in late))

    results = {verb: run(untouched, copied, f"flows/{verb}.py", "run") for verb in VERBS}
    newest = snapshot.open_latest(store)
    sessions = newest.relation("sessions").filter("session_id = 'late'")

    assert [0] * len(VERBS) == [each.returncode for each in results.values()], results
    assert re.search(
        r"warning: web: the data ends at 2026-01-0\S+ \S+, and 12 events of 1 session came long "
        r"after it, up to 2026-01-21 10:11 \(data/raw/web/dt=2026-01-21/late.jsonl, line 12, "
        r"session 'late'\)",
        unwrap(results["data"].stdout),
    )
    assert (newest.ends_at, newest.received_until) == (before.ends_at, before.received_until)
    assert sessions.project("is_open").fetchall() == [(True,)]
    assert newest.statuses | {"open": 0} == before.statuses | {"open": 0}
    assert rows_scored(store) == scored
    assert re.search(r"newest event arrived [\d,]+ hours ago", unwrap(results["monitor"].stdout))


VERBS = ("data", "score", "monitor")


def rows_scored(store: Store) -> set[str]:
    """The sessions of the newest batch of scores."""
    newest = snapshot.open_latest(store).id
    (scores,) = (
        path.parent
        for path in store.scores.glob("*/scores.json")
        if read_json(path)["snapshot"] == newest
    )
    rows = duckdb.read_parquet(str(scores / "scores.parquet"))
    return {entity for (entity,) in rows.project("entity_id").fetchall()}
