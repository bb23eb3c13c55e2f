"""A small store that goes the whole path, and the commands that take it there."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from runs import JOLLYBOAT

from jollyboat.store import PROJECT, Store
from jollyboat.warehouse import warehouse

DAYS, SESSIONS_PER_DAY = 12, 500  # fewer sessions do not convince the gate


def run(store: Store, *command: str) -> subprocess.CompletedProcess:
    """A command as a user types it from the project's root, over this store."""
    environment = os.environ | {"STORE_ROOT": str(store.root)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def run_together(
    store: Store, commands: dict[str, list[str]]
) -> dict[str, subprocess.CompletedProcess]:
    """Commands that do not wait for one another, all at once; what each said."""
    with ThreadPoolExecutor() as pool:
        return dict(
            zip(
                commands,
                pool.map(lambda command: run(store, *command), commands.values()),
                strict=True,
            )
        )


def simulate(
    store: Store, *, days: int = DAYS, sessions_per_day: int = SESSIONS_PER_DAY
) -> subprocess.CompletedProcess:
    """A few thousand simulated events below the store."""
    where = ["--raw", str(store.raw), "--truth", str(store.root / "truth.parquet")]
    return run(
        store,
        *JOLLYBOAT,
        "simulate",
        "--days",
        str(days),
        "--sessions-per-day",
        str(sessions_per_day),
        *where,
    )


def build(store: Store) -> None:
    """Land what is new and build the tables, without an audit."""
    with warehouse.locked(store) as lock:
        landing = warehouse.land(store)
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landing))


def need_simulated_sources() -> None:
    """Skip where the project reads its own logs alone."""
    if not {"web", "orders"} <= set(warehouse.variables().sources):
        pytest.skip(
            "needs the simulated sources, which vars: sources in dbt/dbt_project.yml leaves out"
        )


def go_the_whole_path(store: Store) -> dict:
    """Simulated logs to a champion that answers: what each verb said, and the `store`."""
    verbs = {"simulate": simulate(store)}
    for verb in ("data", "train", "deploy"):
        verbs[verb] = run(store, f"flows/{verb}.py", "run")
    commands = {
        "score": ["flows/score.py", "run"],
        "monitor": ["flows/monitor.py", "run"],
        "ask": [*JOLLYBOAT, "ask"],
    }
    return verbs | run_together(store, commands) | {"store": store}
