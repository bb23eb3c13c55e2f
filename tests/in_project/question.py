"""Run in a project over a store: is a question the same offline and online, and blind to the future?

Prints as JSON how many of the rows of the holdout, features and probability together, differ between
the snapshot and the bundle that is sent their events; how many features of earlier points differ
where all later events are removed; and what the gate compares.
"""

import json
import sys

from jollyboat.bundles.bundle import open_bundle
from jollyboat.champions.champion import current
from jollyboat.serving import deployment_checks
from jollyboat.snapshots import snapshot
from jollyboat.store import default_store
from jollyboat.training import run
from jollyboat.warehouse import warehouse

ROWS = 1_000


def main(question: str) -> None:
    store = default_store().of(question)
    trained = run.open("", store)
    bundle = open_bundle(store.bundle(*current(store)))
    deployment_checks.SESSIONS_COMPARED = ROWS
    _, differing = deployment_checks.check_answers(trained, bundle)
    split = trained.metrics["split"]
    report = {
        "rows": min(ROWS, len(trained.predictions())),
        "differing": differing,
        "future": differing_without_the_future(question, snapshot.open("", store)),
        "split": {name: [part["from"], part["to"]] for name, part in split.items()},
    }
    print(json.dumps(report))


def differing_without_the_future(question: str, opened) -> int:
    """How many rows of features up to the middle of the points depend on what came after it."""
    sql = warehouse.compiled(opened.store, f"{question}_features_at_point")
    view = opened.manifest["views"][f"{question}_events_at_point"]
    with warehouse.connect(opened.store) as connection:
        (moment,) = connection.sql(
            f"select quantile_disc(point_at, 0.5) from {question}_points"
        ).fetchone()
        early = view.replace(
            "warehouse.main.events", f"(from events where occurred_at <= timestamp '{moment}')"
        )
        assert early != view
        name = f'"warehouse"."main"."{question}_events_at_point"'
        assert name in sql
        both = [
            f"(from ({sql.replace(name, f'({each})')}) where point_at <= timestamp '{moment}')"
            for each in (view, early)
        ]
        (rows,) = connection.sql(f"select count(*) from {both[0]}").fetchone()
        assert rows > 100
        differing = f"(from {both[0]} except from {both[1]}) union all (from {both[1]} except from {both[0]})"
        return len(connection.sql(differing).fetchall())


main(*sys.argv[1:])
