"""Run in a project over a store: what does the server of next_product answer, and is it the same offline?

Prints answers to requests as JSON, the line of the log of one of them, and by feature how many
pairs of held-out points differ between the snapshot and the bundle that is sent their events.
"""

import json
import os
import time

from jollyboat.bundles.bundle import open_bundle
from jollyboat.champions.champion import current
from jollyboat.serving import ranking_checks, smoke_test
from jollyboat.snapshots import snapshot
from jollyboat.store import default_store
from jollyboat.training import run

QUESTION, POINTS = "next_product", 300
VIEWS = [
    {"event_type": "product_view", "product_id": f"p{n}", "occurred_at": f"2026-01-25T10:0{n}:00Z"}
    for n in (1, 2)
]
BODIES = {
    "two": {"events": VIEWS},
    "three": {"events": VIEWS, "count": 3},
    "hundred": {"events": VIEWS, "count": 100},
    "no_view": {"events": [{"event_type": "page_view", "occurred_at": "2026-01-25T10:00:00Z"}]},
    "nobody": {"tenant_id": "nobody", "events": VIEWS},
}


def main() -> None:
    store = default_store().of(QUESTION)
    newest, trained = snapshot.open("", store), run.open("", store)
    ranking_checks.POINTS_COMPARED = POINTS
    items = newest.relation(f"lookup_{QUESTION}_popular").filter("valid_to is null")
    report = {
        "catalogue": [key for (key,) in items.project("key").fetchall()],
        "differing": ranking_checks.count_differences(
            trained, open_bundle(store.bundle(*current(store)))
        ),
    }
    # A client that loses the last event of each session is caught.
    sessions_of = ranking_checks.sessions_of
    ranking_checks.sessions_of = lambda *given: [
        (tenant, entity, events[:-1] or events, *at)
        for tenant, entity, events, *at in sessions_of(*given)
    ]
    report["differing_if_cut"] = ranking_checks.count_differences(
        trained, open_bundle(store.bundle(*current(store)))
    )
    (scores,) = store.scores.glob("*/scores.parquet")
    tenant, entity = newest._connection.sql(
        f"select tenant_id, entity_id from '{scores}' limit 1"
    ).fetchone()
    store.withdrawn.unlink(missing_ok=True)
    with smoke_test.running_server() as server, server.connect() as connection:
        for name, body in BODIES.items():
            report[name] = ask(connection, body)
        report["withdrawn"] = report["hundred"]["items"][0]["item"]
        store.withdrawn.parent.mkdir(exist_ok=True)
        store.withdrawn.write_text(report["withdrawn"] + "\n")
        time.sleep(2)  # the server looks twice a second
        report["without"] = ask(connection, BODIES["hundred"])
        report["score"] = smoke_test._call(connection, f"/scores/{QUESTION}/{tenant}/{entity}")
    store.withdrawn.unlink()
    print(json.dumps(report | {"line": logged_line(store)}))


def ask(connection, body: dict) -> dict:
    body = {"tenant_id": "acme"} | body
    status, answer = smoke_test._call(connection, f"/predict/{QUESTION}", json.dumps(body))
    assert status == 200, answer
    return answer


def logged_line(store) -> dict:
    """The log's line of an answer: a server of its own, since that of the smoke test has no log."""
    from fastapi.testclient import TestClient

    from jollyboat.serving.app import app

    os.environ["ALLOWED_HOSTS"] = "testserver"
    before = set(store.raw.glob("predictions/*/*.jsonl"))
    with TestClient(app) as client:
        client.post(f"/predict/{QUESTION}", json={"tenant_id": "acme"} | BODIES["hundred"])
    (path,) = set(store.raw.glob("predictions/*/*.jsonl")) - before
    return json.loads(path.read_text())


main()
