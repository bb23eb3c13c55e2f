"""Spark builds the rows that DuckDB builds, locally and on a cluster that loses a worker."""

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pytest
from odd_logs import write_odd_logs
from runs import JOLLYBOAT, LOGS, bring, copy_project, read_guide, refusal, start, take, type_in
from runs import run as run_python

import demo
from jollyboat.store import write_json

pytestmark = pytest.mark.cluster

GUIDE = demo.HERE / "docs/how-to/build-on-spark.md"
BUILD = """
from jollyboat.store import default_store
from jollyboat.warehouse import warehouse
store = default_store()
with warehouse.locked(store) as lock:
    warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, warehouse.land(store)))
"""
# The first compiler alone: tables this small are computed before the second one has paid off.
DEFAULTS = """
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1
spark.executor.extraJavaOptions -XX:TieredStopAtLevel=1
spark.sql.codegen.wholeStage false
"""
ACCEPTED = [
    {"tenant_id": "acme", "source": "web", "arrived_on": "2026-01-02"},
    {"source": "web", "arrived_on": "2026-01-03"},  # as earlier versions wrote it
]
SALT = "the same in all stores"


@pytest.fixture(scope="module")
def shop(project: Path, environment: None, tmp_path_factory) -> Path:
    """A project in which the guide was followed up to its build."""
    own = copy_project(project, tmp_path_factory.mktemp("spark") / "shop")
    for step in read_guide(GUIDE):
        take(step, own)
        if step.kind == "sh" and "make" not in step.text:
            result = type_in(own, step.text)
            assert result.returncode == 0, result.stdout
    return own


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory) -> Iterator[None]:
    """Quick compilation, and no address but loopback."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "spark-defaults.conf").write_text(DEFAULTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("SPARK_CONF_DIR", str(folder))
        yield


def switch(project: Path, engine: str) -> None:
    settings = project / "project.toml"
    text = re.sub(r'^engine = ".*"$', f'engine = "{engine}"', settings.read_text(), flags=re.M)
    settings.write_text(text)


def build(project: Path, store: Path, engine: str) -> None:
    switch(project, engine)
    store.mkdir(exist_ok=True)
    (store / ".salt").write_text(SALT)
    result = run_python(project, store, "-c", BUILD)
    assert result.returncode == 0, result.stdout


def build_on_both(project: Path, logs: Path, folder: Path) -> tuple[Path, Path]:
    """Two stores with tables of the same logs: DuckDB's and Spark's."""
    stores = folder / "duckdb", folder / "spark"
    for store in stores:
        store.mkdir()
        (store / "raw").symlink_to(logs)
        write_json(store / "accepted_days.json", ACCEPTED)
        build(project, store, store.name)
    return stores


def assert_equal_tables(one: Path, other: Path) -> dict[str, int]:
    """All tables have the same columns, types and rows; returns their numbers of rows."""
    counts = {}
    with duckdb.connect() as connection:
        for name, store in {"one": one, "other": other}.items():
            connection.sql(f"attach '{store / 'warehouse.duckdb'}' as {name} (read_only)")
        tables = connection.sql(
            "select database_name, table_name from duckdb_tables() where table_name != 'landed_files'"
        ).fetchall()
        names = {
            name: {table for base, table in tables if base == name} for name in ("one", "other")
        }
        assert names["one"] == names["other"]
        for table in sorted(names["one"]):
            shapes = [connection.sql(f"describe {base}.{table}").fetchall() for base in names]
            assert shapes[0] == shapes[1], table
            floats = [row[1] in ("DOUBLE", "FLOAT") for row in shapes[0]]
            order = ", ".join(
                str(place)
                for place in sorted(range(1, len(floats) + 1), key=lambda n: floats[n - 1])
            )
            rows = [
                connection.sql(f"from {base}.{table} order by {order}").fetchall() for base in names
            ]
            assert len(rows[0]) == len(rows[1]), table
            for before, after in zip(*rows, strict=True):
                assert all(map(is_same, before, after)), (table, before, after)
            counts[table] = len(rows[0])
    return counts


def is_same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one == other


@pytest.fixture(scope="module")
def shop_with_questions(shop: Path, tmp_path_factory) -> Path:
    """The project with a question about users and a ranking."""
    own = copy_project(shop, tmp_path_factory.mktemp("questions") / "shop")
    for question in ("churn", "next_product"):
        added = type_in(own, f".venv/bin/jollyboat add question {question}")
        assert added.returncode == 0, added.stdout
    return own


@pytest.fixture(scope="module")
def odd_stores(shop_with_questions: Path, tmp_path_factory) -> tuple[Path, Path]:
    """DuckDB's and Spark's store of the generated logs."""
    folder = tmp_path_factory.mktemp("odd")
    write_odd_logs(folder / "raw")
    return build_on_both(shop_with_questions, folder / "raw", folder)


def test_the_rows_of_logs_full_of_nulls_ties_odd_times_and_emoji_are_equal(odd_stores):
    counts = assert_equal_tables(*odd_stores)

    assert min(counts[name] for name in ("fct_predictions", "judgements", "sessions")) > 20
    assert counts["source_changes"] > 3


def test_the_rows_of_simulated_logs_are_equal(shop_with_questions, tmp_path):
    own = shop_with_questions
    size = ["--days", "8", "--sessions-per-day", "80"]
    where = ["--raw", str(tmp_path / "raw"), "--truth", str(tmp_path / "truth.parquet")]
    assert run_python(own, tmp_path, *JOLLYBOAT, "simulate", *size, *where).returncode == 0

    counts = assert_equal_tables(*build_on_both(own, tmp_path / "raw", tmp_path))

    assert counts["session_features"] > 300
    assert counts["lookup_next_product_covisits"] and counts["churn_features"]


@pytest.mark.skipif(not LOGS.is_dir(), reason=f"the real logs are not at {LOGS}")
def test_the_rows_of_real_logs_are_equal(shop, tmp_path):
    own = copy_project(shop, tmp_path / "own")
    bring(own, "luma", 3)

    counts = assert_equal_tables(*build_on_both(own, own / "data/raw", tmp_path))

    assert counts["events"] > 20_000


def test_a_worker_that_is_killed_midway_changes_nothing(
    shop_with_questions, odd_stores, tmp_path, monkeypatch
):
    shop = shop_with_questions
    switch(shop, "spark")
    shutil.copytree(odd_stores[0] / "raw", tmp_path / "store/raw")
    (tmp_path / "store/.salt").write_text(SALT)
    write_json(tmp_path / "store/accepted_days.json", ACCEPTED)
    log = tmp_path / "store/dbt/logs/run.txt"

    with cluster(shop, tmp_path) as (address, workers):
        monkeypatch.setenv("SPARK_MASTER", address)
        building = start(shop, tmp_path / "store", "-c", BUILD)
        while building.poll() is None and count_models(log) < 4:
            time.sleep(0.2)
        assert building.poll() is None, building.stdout.read()
        os.killpg(workers[0].pid, signal.SIGKILL)
        printed, _ = building.communicate(timeout=1200)

    assert building.returncode == 0, printed + log.read_text()[-3000:]
    assert_equal_tables(odd_stores[0], tmp_path / "store")


def count_models(log: Path) -> int:
    """The models that Spark has finished so far."""
    text = log.read_text() if log.exists() else ""
    return text.partition("target='spark'")[2].count(" OK created ")


@contextmanager
def cluster(project: Path, folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address of a master on loopback, and its two workers of one core."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address, host = f"spark://127.0.0.1:{port}", ["--host", "127.0.0.1", "--webui-port", "0"]
    roles = [["master.Master", *host, "--port", port]]
    for number in range(2):
        size = ["--cores", "1", "--memory", "2g", "--work-dir", str(folder / f"work{number}")]
        roles.append(["worker.Worker", *host, *size, address])
    processes = []
    try:
        for number, (role, *arguments) in enumerate(roles):
            command = [project / ".venv/bin/spark-class", f"org.apache.spark.deploy.{role}"]
            with (folder / f"spark{number}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [*command, *arguments],
                        env=os.environ | {"PATH": f"{project}/.venv/bin:{os.environ['PATH']}"},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        deadline = time.monotonic() + 300
        master = folder / "spark0.log"
        while master.read_text().count("Registering worker") < 2:
            assert time.monotonic() < deadline, master.read_text()
            time.sleep(0.5)
        yield address, processes[1:]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_spark_without_memory_ends_in_one_sentence(shop, odd_stores, tmp_path):
    own = copy_project(shop, tmp_path / "own")
    switch(own, "spark")
    settings = own / "project.toml"
    settings.write_text(settings.read_text().replace('spark_memory = "2g"', 'spark_memory = "99m"'))
    store = tmp_path / "store"
    shutil.copytree(odd_stores[0] / "raw", store / "raw")

    result = run_python(own, store, "flows/data.py", "run")

    assert "Spark has too little memory" in refusal(result)
    assert "raise spark_memory under [build] in project.toml" in refusal(result)
    assert not list(store.glob("snapshots/*"))


def test_what_spark_computed_is_trained_and_served_by_duckdb(shop, tmp_path):
    """The gate compares the features of both on 200 sessions."""
    switch(shop, "spark")
    store = tmp_path / "store"
    size = ["--days", "10", "--sessions-per-day", "120"]
    where = ["--raw", str(store / "raw"), "--truth", str(store / "truth.parquet")]
    steps = [[*JOLLYBOAT, "simulate", *size, *where], ["flows/data.py", "run"]]
    for command in [*steps, ["flows/train.py", "run"]]:
        result = run_python(shop, store, *command)
        assert result.returncode == 0, result.stdout

    result = run_python(shop, store, "flows/deploy.py", "run", "--force", "few sessions")

    assert "0 values of all features differ" in demo.unwrap(result.stdout), result.stdout
