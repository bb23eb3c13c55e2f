"""One small store that has gone the whole path, shared by the tests that look at it; copy it before changing it."""

import fcntl
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rails import warehouse
from rails.landing import land
from rails.store import PROJECT, Store

DAYS, SESSIONS_PER_DAY = 10, 400  # fewer sessions do not convince the gate


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


def run_together(store: Store, commands: dict[str, list[str]]) -> dict[str, subprocess.CompletedProcess]:
    """Commands that do not wait for one another, all at once; what each said."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(commands, pool.map(lambda command: run(store, *command), commands.values()), strict=True))


def simulate(
    store: Store, *, days: int = DAYS, sessions_per_day: int = SESSIONS_PER_DAY
) -> subprocess.CompletedProcess:
    """A few thousand simulated events below the store."""
    where = ["--raw", str(store.raw), "--truth", str(store.root / "truth.parquet")]
    return run(store, "-m", "ml.simulate", "--days", str(days), "--sessions-per-day", str(sessions_per_day), *where)


def build(store: Store) -> None:
    """Land what is new and build the tables, without an audit."""
    with warehouse.locked(store) as lock:
        landing = land(store, *warehouse.source_names())
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landing))


def need_simulated_sources() -> None:
    """Skip where the project reads its own logs alone."""
    if not {"web", "orders"} <= set(warehouse.variables()["sources"]):
        pytest.skip("needs the simulated sources, which vars: sources in dbt/dbt_project.yml leaves out")


@pytest.fixture(scope="session")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess]:
    """What each verb said on the whole path, in order; the first process that asks goes it, the others wait."""
    need_simulated_sources()
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    kept = folder / "said.pickle"
    with (folder / "said.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(go_the_whole_path(Store(folder / "store"))))
    return pickle.loads(kept.read_bytes())


def go_the_whole_path(store: Store) -> dict:
    """Simulated logs to a champion that answers: what each verb said, and the `store`."""
    verbs = {"simulate": simulate(store)}
    for verb in ("data", "train", "deploy"):
        verbs[verb] = run(store, f"flows/{verb}.py", "run")
    commands = {
        "score": ["flows/score.py", "run"],
        "monitor": ["flows/monitor.py", "run"],
        "ask": ["-m", "serving.ask"],
    }
    return verbs | run_together(store, commands) | {"store": store}


@pytest.fixture(scope="session")
def built(said: dict) -> Store:
    """The store that the whole path built; look, do not touch."""
    return said["store"]


@pytest.fixture
def copied(built: Store, tmp_path: Path) -> Store:
    """A copy of the built store, to be broken."""
    shutil.copytree(built.root, tmp_path / "store")
    return Store(tmp_path / "store")
