"""A build in shards, each on whatever machine: its tables equal those of a build at once.

Shards of files are staged. Shards of tenants build events; these say where the data of all tenants
end; then shards of tenants build the rest. The last task joins the tables, and builds the models
with the tag `across_tenants`. `data/shards/<plan>/<task>` has what one task hands to the next.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from jollyboat.landing.landing import Landing, keep_salt_file, read_catalog
from jollyboat.store import (
    Store,
    UserError,
    fetch,
    is_alive,
    quoted,
    read_json,
    replacing,
    write_json,
    write_text,
)
from jollyboat.warehouse.warehouse import (
    Build,
    build_inputs,
    check_folder,
    dbt_error,
    memory_limit,
    models_of_run,
    run_dbt,
)

# dbt's selections. What int_data_end reads is built before it, and everything else after it.
FILES = ("--select", "+int_records")
EVENTS = ("--select", "+int_data_end", "--exclude", "int_data_end")
DATA_END = ("--select", "int_data_end")
TABLES = ("--exclude", "+int_data_end,config.materialized:table", "tag:across_tenants")
JOINED = ("--select", "config.materialized:view", "config.materialized:staged")
JOINED += ("tag:across_tenants",)


@dataclass(frozen=True)
class Plan:
    """What all shards of a build read, and how many there are at most."""

    inputs: Mapping[str, str]
    count: int

    @cached_property
    def id(self) -> str:
        """A hash: the same shards of the same inputs are built once."""
        return hashlib.sha256(json.dumps([self.inputs, self.count]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Shard:
    """Tenants whose tables one task builds."""

    number: int
    tenants: list[str]
    event_count: int


def plan(store: Store, landing: Landing, count: int) -> Plan:
    """The plan of a build of what has landed; removes what other plans and killed tasks left.

    UserError where the engine is Spark.
    """
    check_folder(store)
    new = Plan(_inputs(store, landing.fingerprint), count)
    if new.inputs["engine"] != "duckdb":
        raise UserError(
            'Shards of tenants are built by DuckDB, and [build] engine in project.toml is "spark". '
            'Set it to "duckdb", or data_shards = 1 under [cluster], and use flows/data.py.'
        )
    _workshops(store).mkdir(parents=True, exist_ok=True)
    left = [each for each in store.shards.glob("*") if each.name != new.id]
    dead = [each for each in _workshops(store).iterdir() if not is_alive(_owner(each))]
    for folder in (*left, *dead):
        shutil.rmtree(folder)
    return new


def stage(store: Store, plan: Plan, number: int) -> dict[str, int]:
    """Stage the files of one shard; returns the number of events by tenant, repeats included."""
    variables = {"file_shards": plan.count, "file_shard": number}
    own = [file for file in read_catalog(store)[0] if file.portion % plan.count == number]
    fetch([file.read_from for file in own if file.read_from])
    with _workshop(store, plan) as workshop:
        workshop.staged.mkdir()
        store.staged.mkdir(exist_ok=True)
        for path in store.staged.glob("*.parquet"):
            (workshop.staged / path.name).symlink_to(path)
        _run(store, workshop, FILES, variables)
        with _connect(workshop) as connection:
            events = connection.sql("from int_records where reason is null")
            counts = dict(events.aggregate("tenant_id, count(*)").fetchall())
        for path in workshop.staged.glob("*.parquet"):
            if not path.is_symlink():
                path.replace(store.staged / path.name)
    return counts


def deal(counts: Iterable[Mapping[str, int]], count: int) -> list[Shard]:
    """The tenants in at most so many shards of about the same number of events, none empty.

    `counts` are the events by tenant of each shard of files. Without a tenant there is one shard.
    """
    totals: Counter[str] = Counter()
    for each in counts:
        totals.update(each)
    tenants: list[list[str]] = [[] for _ in range(max(1, min(count, len(totals))))]
    loads = [0] * len(tenants)
    for tenant, events in sorted(totals.items(), key=lambda one: (-one[1], one[0])):
        lightest = loads.index(min(loads))
        tenants[lightest].append(tenant)
        loads[lightest] += events
    return [Shard(*each) for each in zip(range(len(tenants)), tenants, loads, strict=True)]


def build_events(store: Store, plan: Plan, shard: Shard) -> None:
    """Build the events of the shard's tenants, and what they are made of."""
    _build(store, plan, _events(shard), EVENTS, [], shard.tenants)


def build_data_end(store: Store, plan: Plan, shards: Iterable[Shard]) -> None:
    """Build int_data_end from the events of all shards."""
    _build(store, plan, "data_end", DATA_END, map(_events, shards))


def build_tables(store: Store, plan: Plan, shard: Shard) -> None:
    """Build the other tables of the shard's tenants; UserError for one without a tenant_id."""
    reads = [_events(shard), "data_end"]
    _build(store, plan, _tables(shard), TABLES, reads, shard.tenants)
    for table, columns in _record(store, plan, _tables(shard))["tables"].items():
        if "tenant_id" not in columns:
            raise UserError(
                f"The model {table} has no column tenant_id, so shards of tenants cannot build it. "
                "Add the column; or, if it reads all tenants and no feature reads it, the tag "
                "across_tenants in its .yml."
            )


def join(store: Store, plan: Plan, shards: Sequence[Shard], lock: int) -> Build:
    """Make the warehouse of the shards' tables, and start dbt for the models of all tenants.

    Its caller holds the lock of the warehouse, and calls `warehouse.finish_dbt`. Raises UserError
    if another run has landed files since the plan was made.
    """
    keep_salt_file(store)
    _check(store, plan)
    (store.dbt / "built.json").unlink(missing_ok=True)
    for path in (store.warehouse, store.warehouse.with_suffix(".duckdb.wal")):
        path.unlink(missing_ok=True)
    tasks = [*map(_events, shards), *map(_tables, shards), "data_end"]
    with _connect(store) as connection:
        _load(connection, store, plan, tasks, "table")
        connection.execute("drop table landed_files")  # each shard has all its rows
    # The audit reads the SQL of a question's points, which the next dbt does not compile.
    for name, text in _record(store, plan, _tables(shards[0]))["compiled"].items():
        write_text(_compiled(store) / name, text)
    process = run_dbt(store, *JOINED, "--exclude", "int_data_end", lock=lock)
    return Build(process, build_inputs(store, plan.inputs["landed"]), _models(store, plan, tasks))


def _build(
    store: Store,
    plan: Plan,
    task: str,
    select: Iterable[str],
    reads: Iterable[str],
    tenants: list[str] | None = None,
) -> None:
    """Build the models of a task, whose tables other tasks read, unless they are there already."""
    if _is_built(store, plan, task):
        return
    with _workshop(store, plan) as workshop:
        workshop.staged.symlink_to(store.staged)
        with _connect(workshop) as connection:
            _load(connection, store, plan, reads, "view")
            if tenants is not None:
                query = "create table shard_tenants as select unnest(cast($tenants as varchar[]))"
                connection.execute(f"{query} as tenant_id", {"tenants": tenants})
        _run(store, workshop, select, {"in_shard": tenants is not None})
        _check(store, plan)  # else the tables could be of later files, and have this plan's name
        _keep(workshop, _folder(store, plan, task))


def _run(store: Store, workshop: Store, select: Iterable[str], variables: Mapping) -> None:
    if run_dbt(workshop, *select, "--vars", json.dumps(variables)).wait() != 0:
        (store.dbt / "logs").mkdir(exist_ok=True)
        shutil.copy(workshop.dbt / "logs" / "run.txt", store.dbt / "logs" / "run.txt")
        raise UserError(dbt_error(store))


@contextmanager
def _workshop(store: Store, plan: Plan) -> Iterator[Store]:
    """A store for the dbt of one task: a warehouse of its own, and links to what it reads.

    A killed task's dbt lives on, and writes where nobody reads.
    """
    _check(store, plan)
    _workshops(store).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{os.getpid()}-", dir=_workshops(store)) as folder:
        workshop = Store(Path(folder))
        for name in ("raw", "landed", "accepted_days.json"):
            (workshop.root / name).symlink_to(store.root / name)
        workshop.salt.touch(mode=0o600)
        workshop.salt.write_text(store.read_salt(), encoding="utf-8")
        yield workshop


def _workshops(store: Store) -> Path:
    return store.dbt / "shards"


def _compiled(store: Store) -> Path:
    return store.dbt / "target" / "compiled"


def _owner(workshop: Path) -> int:
    return int(workshop.name.partition("-")[0])


def _inputs(store: Store, landed: str) -> dict[str, str]:
    """The inputs of a build, on whatever machine."""
    inputs = build_inputs(store, landed)
    return {name: value for name, value in inputs.items() if name != "root"}


def _check(store: Store, plan: Plan) -> None:
    _, landed = read_catalog(store)
    if _inputs(store, landed) != plan.inputs:
        raise UserError(
            "Another data run has landed or accepted files since this one began, or the code is "
            "another; nothing was published. Run the same command again."
        )


def _keep(workshop: Store, folder: Path) -> None:
    """Write the workshop's tables as Parquet, then the record that makes them a task's result."""
    tables = {}
    with _connect(workshop) as connection:
        connection.execute("drop table if exists shard_tenants")
        query = "select table_name from duckdb_tables() where not temporary order by all"
        for (table,) in connection.sql(query).fetchall():
            described = connection.sql(f'describe "{table}"').fetchall()
            tables[table] = {name: kind for name, kind, *_ in described}
            with replacing(folder / f"{table}.parquet") as draft:
                connection.execute(
                    f"copy \"{table}\" to '{quoted(draft)}' (format parquet, compression zstd)"
                )
    sql = _compiled(workshop)
    compiled = {
        path.relative_to(sql).as_posix(): path.read_text(encoding="utf-8")
        for path in sql.rglob("*.sql")
    }
    record = {"tables": tables, "models": models_of_run(workshop), "compiled": compiled}
    write_json(folder / "built.json", record)


def _load(
    connection: duckdb.DuckDBPyConnection, store: Store, plan: Plan, tasks: Iterable[str], kind: str
) -> None:
    """Make tables or views of these tasks' tables; those of one name become one.

    Parquet lacks some of DuckDB's types, so each column gets its own again.
    """
    columns: dict[str, dict] = {}
    files: dict[str, list[str]] = {}
    for task in tasks:
        folder = _folder(store, plan, task)
        columns |= _record(store, plan, task)["tables"]
        for table in _record(store, plan, task)["tables"]:
            files.setdefault(table, []).append(str(folder / f"{table}.parquet"))
    for table, paths in files.items():
        values = ", ".join(
            f'cast("{name}" as {type}) as "{name}"' for name, type in columns[table].items()
        )
        query = f'create {kind} "{table}" as select {values} from read_parquet({paths})'
        try:
            connection.execute(query)
        except (duckdb.InvalidInputException, duckdb.IOException) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"The shards' table {table} cannot be read ({reason}). Nothing was published; "
                f"delete {store.shards / plan.id}, then run the same command again."
            ) from error


def _models(store: Store, plan: Plan, tasks: Iterable[str]) -> list[dict]:
    """The models that these tasks built, with the seconds of all shards."""
    models: dict[str, dict] = {}
    for task in tasks:
        for one in _record(store, plan, task)["models"]:
            seconds = models.get(one["name"], {"seconds": 0})["seconds"] + one["seconds"]
            models[one["name"]] = one | {"seconds": seconds}
    return list(models.values())


def _is_built(store: Store, plan: Plan, task: str) -> bool:
    """Whether all files of a task are there; a killed push may have left some."""
    folder = _folder(store, plan, task)
    tables = read_json(folder / "built.json", default={}).get("tables", [])
    return bool(tables) and all((folder / f"{table}.parquet").exists() for table in tables)


def _record(store: Store, plan: Plan, task: str) -> dict:
    path = _folder(store, plan, task) / "built.json"
    record = read_json(path, tables=dict, models=list, compiled=dict)
    if record is None:
        raise UserError(
            f"{path} is missing: another data run has removed it. Nothing was published; run the "
            "same command again."
        )
    return record


def _folder(store: Store, plan: Plan, task: str) -> Path:
    return store.shards / plan.id / task


def _events(shard: Shard) -> str:
    return f"events-{shard.number}"


def _tables(shard: Shard) -> str:
    return f"tables-{shard.number}"


def _connect(store: Store) -> duckdb.DuckDBPyConnection:
    config = memory_limit() | {"preserve_insertion_order": "false"}
    return duckdb.connect(str(store.warehouse), config=config)
