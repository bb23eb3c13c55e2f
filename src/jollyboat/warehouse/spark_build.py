"""The build on Spark: the models after staging, over the staged Parquet files.

DuckDB stages new files, and gives each table its columns and types. Spark computes the rows. DuckDB
then reads them into the warehouse and makes the views, so that audit, training and serving do not
change. `start_dbt` starts this module as a process; its output is dbt's log.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from jollyboat.store import Store, UserError, default_store, quoted, read_json, write_json
from jollyboat.store.settings import Build

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STAGED = ["landed_files", "config.materialized:staged"]
SCHEMA = "warehouse"  # as in profiles.yml
# With these a text, a time and a quoted backslash mean what they mean in DuckDB.
MEANING = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.parser.escapedStringLiterals": "true",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.cteRecursionRowLimit": "-1",
    "spark.sql.cteRecursionLevelLimit": "1000",
}
QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
ACCEPTED_DAYS = """
    select source, arrived_on, tenant_id, true as is_accepted from read_json(
        '{}', columns = {{'source': 'VARCHAR', 'arrived_on': 'DATE', 'tenant_id': 'VARCHAR'}})
"""


def check_machine(store: Store) -> None:
    """UserError where dbt-spark or Java is missing, or the path would be a pattern to Spark."""
    way_back = 'or set engine = "duckdb" under [build] in project.toml'
    if marks := sorted(set("{}[]*`") & set(str(store.root))):
        raise UserError(
            f"Spark cannot read files in {store.root}: the path has a {marks[0]!r}. "
            f"Rename that folder, {way_back}."
        )
    if not (find_spec("pyspark") and find_spec("dbt.adapters.spark")):
        raise UserError(
            '[build] engine in project.toml is "spark", but dbt-spark is not installed. Run '
            f"`.venv/bin/uv pip install --require-hashes -r requirements-spark.txt`, {way_back}."
        )
    home = os.environ.get("JAVA_HOME")
    if not shutil.which("java", path=f"{home}/bin" if home else None):
        place = f"in JAVA_HOME ({home})" if home else "on PATH"
        raise UserError(
            f"Spark needs Java 17 or later, and there is no java {place}. Install it, such as with "
            f"`apt-get install openjdk-17-jre-headless`, {way_back}."
        )


def scratch(store: Store) -> Path:
    """The folder of a build's files, emptied of what a killed build left."""
    folder = store.dbt / "spark"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def build(store: Store, settings: Build) -> bool:
    """Build all tables of the warehouse; whether every model succeeded. dbt's log is the output."""
    folder = scratch(store)
    (folder / "inputs").mkdir(parents=True)
    target = store.dbt / "target"
    try:
        if not _run_duckdb(target, "run", "--select", *STAGED):
            return False
        staged = read_json(target / "run_results.json")["results"]
        tables = _run_spark(store, settings, folder)
        if tables is None or not _run_duckdb(folder, "run", "--empty", "--exclude", *STAGED):
            return False
        _load(store, tables)
        for verb in (["run", "--select", "config.materialized:view"], ["compile"]):
            if not _run_duckdb(target, *verb):
                return False
        computed = read_json(folder / "target" / "run_results.json")["results"]
        results = read_json(target / "run_results.json")
        write_json(target / "run_results.json", results | {"results": staged + computed})
        return True
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_duckdb(target: Path, *arguments: str) -> bool:
    command = [sys.executable, "-m", "dbt.cli.main", *arguments, "--no-use-colors"]
    command += ["--target-path", str(target)]
    return not subprocess.call(command, close_fds=False)  # it shares the lock, as start_dbt says


def _run_spark(store: Store, settings: Build, folder: Path) -> dict[str, Path] | None:
    """The folder of each table's Parquet files; None where a model failed."""
    from dbt.cli.main import dbtRunner

    with _session(settings, folder) as session:
        for name, files in _inputs(store, folder / "inputs"):
            rows = " union all ".join(f"select * from parquet.`{file}`" for file in files)
            session.sql(f"create view {SCHEMA}.{name} as {rows}")
        arguments = ["run", "--target", "spark", "--no-use-colors", "--exclude", *STAGED]
        done = dbtRunner().invoke([*arguments, "--target-path", str(folder / "target")])
    if not done.success:
        return None
    return {
        result.node.name: folder / "tables" / f"{SCHEMA}.db" / result.node.name
        for result in done.result
        if result.node.resource_type == "model" and result.node.config.materialized != "view"
    }


@contextmanager
def _session(settings: Build, folder: Path) -> Iterator["SparkSession"]:
    """The session that dbt's method `session` uses, too: there is one in a process."""
    from pyspark.sql import SparkSession

    master = os.environ.get("SPARK_MASTER") or settings.spark_master
    configuration = {
        "spark.app.name": "jollyboat",
        "spark.driver.memory": settings.spark_memory,
        "spark.executor.memory": settings.spark_memory,
        "spark.sql.warehouse.dir": str(folder / "tables"),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.legacy.createHiveTableByDefault": "false",
        **(LOOPBACK if master.startswith("local") else {}),
        **MEANING,
        **QUIET,
    }
    builder = SparkSession.builder.master(master)
    for name, value in configuration.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    try:
        session.sparkContext.setLogLevel("ERROR")
        partitions = 4 * session.sparkContext.defaultParallelism
        session.conf.set("spark.sql.shuffle.partitions", partitions)
        session.sql(f"create schema {SCHEMA}")
        yield session
    finally:
        session.stop()


def _inputs(store: Store, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The Parquet files of each staging model, of landed_files and of the accepted days."""
    with duckdb.connect(str(store.warehouse), read_only=True) as connection:
        views = connection.sql("select view_name, sql from duckdb_views() where not internal")
        for name, sql in views.fetchall():
            if name.startswith("stg_"):
                yield name, re.findall(r"'([^']+[.]parquet)'", sql)
        queries = {
            "landed_files": "from landed_files",
            "accepted_days": ACCEPTED_DAYS.format(quoted(store.accepted_days)),
        }
        for name, query in queries.items():
            file = folder / f"{name}.parquet"
            connection.execute(f"copy ({query}) to '{quoted(file)}' (format parquet)")
            yield name, [str(file)]


def _load(store: Store, tables: dict[str, Path]) -> None:
    """Read Spark's rows into the tables that DuckDB made of no rows.

    A total without groups has a row there, of nothing.
    """
    with duckdb.connect(str(store.warehouse)) as connection:
        connection.execute("set preserve_insertion_order = false")
        for name, folder in tables.items():
            rows = f"read_parquet('{quoted(folder)}/*.parquet')"
            columns, computed = (
                {column for column, *_ in connection.sql(f"describe from {source}").fetchall()}
                for source in (name, rows)
            )
            if columns != computed:
                names = ", ".join(sorted(columns ^ computed))
                raise UserError(f"DuckDB and Spark disagree on the columns of {name}: {names}.")
            connection.execute(f"truncate {name}")
            connection.execute(f"insert into {name} by name from {rows}")


if __name__ == "__main__":
    from jollyboat.store import project_settings

    try:
        sys.exit(not build(default_store(), project_settings().build))
    except UserError as error:
        sys.exit(f"Failure in the build on Spark: {error}")
