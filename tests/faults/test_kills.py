"""A flow that is killed at any step, started again by the same command, ends as one that was left in peace."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from runs import run

import demo

pytestmark = pytest.mark.faults

STARTS_FROM = {
    "data": ["raw", ".salt"],
    "train": ["snapshots", "tables"],
    "deploy": ["snapshots", "tables", "runs"],
    "score": ["snapshots", "tables", "models"],
}
# When a flow is killed, one moment after the other: as soon as a file like this is written, with this text in it.
BETWEEN_MODELS = [("dbt/logs/run.txt", f"  {number} of ") for number in range(2, 25, 11)]
MOMENTS = {
    "data": [
        ("landed/catalog.json", ""),
        ("staged/web-*.parquet", ""),
        *BETWEEN_MODELS,
        ("dbt/built.json", ""),
        ("reports/failed_rows.json", ""),
        ("tables/events/*/*.parquet", ""),
        ("snapshots/*/manifest.json", ""),
        ("snapshots/latest.json", ""),
        ("reports/data.html", ""),
    ],
    "train": [
        ("runs/latest.json", ""),
        ("runs/*/candidates/baseline/model.skops", ""),
        ("runs/*/candidates/xgboost/model.ubj", ""),
        ("runs/*/metrics.json", ""),
        ("runs/*/report.html", ""),
    ],
    "deploy": [
        (".metaflow/DeployFlow/*/start/*/0.attempt.json", ""),
        ("models/shared/*/manifest.json", ""),
        (".metaflow/DeployFlow/*/end/*/0.attempt.json", ""),
        ("models/shared/*-gate.html", ""),
    ],
    "score": [("scores/*/scores.csv", ""), ("scores/*/report.html", "")],
}
TELL_THE_TIME = {"report.html", "run.json", "champion.json", "manifest.json"}


@pytest.mark.parametrize("flow", MOMENTS)
def test_a_flow_killed_at_every_step_ends_as_one_left_in_peace(untouched, built, tmp_path, flow):
    """All its processes are killed, and at every second moment only the first of them."""
    store = tmp_path / "store"
    store.mkdir()
    for name in STARTS_FROM[flow]:
        (shutil.copytree if (built / name).is_dir() else shutil.copy2)(built / name, store / name)
    killed = []

    with watched(store) as seen:
        for number, (pattern, text) in enumerate(MOMENTS[flow]):
            killed += kill(untouched, store, flow, pattern, text, whole=number % 2 == 0)
        result = run(untouched, store, f"flows/{flow}.py", "run")
        for group in killed:
            wait_for_the_end(group)

    assert result.returncode == 0, result.stdout
    # What a killed parent leaves behind goes on by itself, and may be past the next moment.
    assert len(killed) >= len(MOMENTS[flow]) - len(MOMENTS[flow]) // 2
    assert seen == []
    assert state(built, flow) == state(store, flow)


def kill(project: Path, store: Path, flow: str, pattern: str, text: str, whole: bool) -> list[int]:
    """Start the flow and kill it at the moment, whole or its first process alone; returns its group of processes.

    Empty where it got to its end: a kill may come so late that the moment after it is past, too.
    """
    began = time.time()
    log = (store.parent / "log.txt").open("w")
    running = subprocess.Popen(
        [project / ".venv/bin/python", f"flows/{flow}.py", "run"],
        cwd=project,
        env=demo.environment() | {"STORE_ROOT": str(store)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    while not any(has_come(path, text, began) for path in store.glob(pattern)):
        if running.poll() == 0:
            return []
        assert running.returncode is None, (store.parent / "log.txt").read_text()
        assert time.time() < began + 120
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL) if whole else running.kill()
    assert running.wait() == -signal.SIGKILL
    return [running.pid]


def has_come(path: Path, text: str, began: float) -> bool:
    try:
        return path.stat().st_mtime >= began and (not text or text in path.read_text())
    except FileNotFoundError:
        return False


def wait_for_the_end(group: int) -> None:
    """What a kill left behind goes on, and ends."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes of group {group} still run")


@contextmanager
def watched(store: Path) -> Iterator[list[str]]:
    """A reader that looks at every pointer all the time; yields what it found half-written or leading nowhere."""
    actual, is_over = [], threading.Event()

    def look() -> None:
        while not is_over.wait(0.002):
            for pointer in [store / "snapshots/latest.json", *store.glob("models/*/champion.json")]:
                try:
                    named = json.loads(pointer.read_text())
                    folder = pointer.parent / named.get("snapshot", named.get("version"))
                    json.loads((folder / "manifest.json").read_text())
                except FileNotFoundError as error:
                    if pointer.exists() and Path(error.filename) != pointer:
                        actual.append(f"{pointer} leads nowhere: {error}")
                except ValueError as error:
                    actual.append(f"{pointer}: {error}")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield actual
    finally:
        is_over.set()
        watcher.join()


def state(store: Path, flow: str) -> dict:
    """What the flow left in the store, without what tells the time of day."""
    if flow == "data":
        (manifest,) = (
            json.loads(path.read_text()) for path in store.glob("snapshots/*/manifest.json")
        )
        files = sorted(path.relative_to(store) for path in store.glob("tables/*/dt=*/*.parquet"))
        return manifest | {
            "published_at": None,
            "files on disk": files,
            "warehouse": warehouse(store),
        }
    folder = store / {"train": "runs", "deploy": "models", "score": "scores"}[flow]
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_hidden(path.relative_to(folder))
    ]
    left_out = TELL_THE_TIME
    digests = {
        str(path.relative_to(folder)): path.name in left_out
        or hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.endswith(("-gate.html", "-gate.json"))
    }
    champions = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/champion.json")
    }
    versions = {
        owner: [entry["version"] for entry in one["history"]] for owner, one in champions.items()
    }
    return digests | {"champions": versions}


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def warehouse(store: Path) -> dict[str, tuple]:
    """Rows and a hash of them for each table of the warehouse; the order of rows does not count.

    Left out is what tells of the store's own place: copies of repaired files are named.
    """
    root = str(store)
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        named = connection.sql(
            "select table_name from duckdb_tables() where table_name != 'landed_files'"
        ).fetchall()
        query = "select count(*), sum(hash(replace(cast(t as varchar), '{}', ''))) from \"{}\" as t"
        return {
            table: connection.sql(query.format(root, table)).fetchone()
            for (table,) in sorted(named)
        }
