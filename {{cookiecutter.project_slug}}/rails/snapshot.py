"""Snapshots: which immutable files make one trusted state of the tables. Readers use these, never the warehouse."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import duckdb

from rails.errors import Refused
from rails.store import Store, default_store, read_json, write_json, write_text

# The tables that readers get, with the day by which each is cut into files.
PUBLISHED = {
    "events": "arrived_on",
    "quarantined_events": "arrived_on",
    "duplicate_events": "arrived_on",
    "record_account": "arrived_on",
    "sessions": "started_at",
    "session_features": "point_at",
    "events_at_point": "point_at",
    "lookup_product": "valid_from",
    "lookup_visitor": "valid_from",
}


@dataclass(frozen=True)
class Snapshot:
    """One published state of the tables; opening it again gives the same rows for as long as it is kept."""

    store: Store
    id: str
    manifest: dict

    @property
    def feature_sql(self) -> str:
        """The SQL of features_at_point as this snapshot's features were computed by it."""
        return (self.store.snapshots / self.id / "features.sql").read_text(encoding="utf-8")

    @property
    def lookups(self) -> list[str]:
        """The names of the tables of slow statistics."""
        return [name for name in self.manifest["tables"] if name.startswith("lookup_")]

    def columns(self, table: str) -> dict[str, str]:
        """The columns of a table with their DuckDB types; Refused where the snapshot has no such table."""
        return self._table(table)["columns"]

    def files(self, table: str) -> list[Path]:
        """The Parquet files of a table; Refused where one is gone."""
        paths = [self.store.tables / table / entry["file"] for entry in self._table(table)["files"]]
        for path in paths:
            if not path.exists():
                raise Refused(
                    f"Snapshot {self.id} misses its file {path}; `make clean data` builds it again from the raw logs."
                )
        return paths

    def relation(self, table: str) -> duckdb.DuckDBPyRelation:
        """A table as a DuckDB relation, to go on in SQL: `snapshot.relation("events").filter("price > 10").df()`."""
        paths = [str(path) for path in self.files(table)]
        if not paths:
            columns = ", ".join(f'cast(null as {kind}) as "{name}"' for name, kind in self.columns(table).items())
            return self._connection.sql(f"select {columns} where false")
        return self._connection.read_parquet(paths, hive_partitioning=False)

    def frame(self, table: str):
        """A table as a pandas data frame."""
        return self.relation(table).df()

    def rows_of(self, table: str, entities):
        """The rows of a table of the entities in a data frame (tenant_id, entity_id), as a data frame."""
        self._connection.register("asked", entities)
        return self.relation(table).join(self._connection.table("asked"), "tenant_id, entity_id", how="semi").df()

    def _table(self, table: str) -> dict:
        try:
            return self.manifest["tables"][table]
        except KeyError:
            known = ", ".join(self.manifest["tables"])
            raise Refused(f"Snapshot {self.id} has no table {table!r}; it has {known}.") from None

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect()


def open_latest(store: Store | None = None) -> Snapshot:
    """The newest published snapshot; Refused where nothing is published yet."""
    return open("", store)


def open(snapshot_id: str, store: Store | None = None) -> Snapshot:
    """A snapshot by its id ('' for the newest); Refused, with the ids there are, where it is unknown."""
    store = store or default_store()
    snapshot_id = snapshot_id or read_json(store.latest_snapshot, default={}).get("snapshot", "")
    if not snapshot_id:
        raise Refused("There is no snapshot yet: `make data` publishes one from the logs in data/raw.")
    manifest = read_json(store.snapshots / snapshot_id / "manifest.json")
    if manifest is None:
        known = sorted(path.parent.name for path in store.snapshots.glob("*/manifest.json"))
        there_are = (
            f"there are {', '.join(known)}, and none named is the latest" if known else "`make data` publishes one"
        )
        raise Refused(f"There is no snapshot {snapshot_id!r}; {there_are}.")
    return Snapshot(store, snapshot_id, manifest)


def publish(store: Store, facts: Mapping, feature_sql: str) -> tuple[Snapshot, bool]:
    """Publish the warehouse's tables: files for what changed, a manifest, one pointer. Also says whether it is new.

    The snapshot's id is the hash of its content, so that publishing the same rows again is the same snapshot. `facts`
    go into the manifest as they are. Killed at any point, the latest snapshot stays.
    """
    with duckdb.connect(str(store.warehouse), read_only=True) as connection:
        connection.execute("set partitioned_write_max_open_files = 10000")
        tables = {name: _publish_table(store, connection, name, day) for name, day in PUBLISHED.items()}
        first, last = connection.sql("select min(occurred_at), max(occurred_at) from events").fetchone()
    content = {
        "tables": tables,
        "events_between": [str(first), str(last)],
        "feature_sql": hashlib.sha256(feature_sql.encode()).hexdigest(),
        **facts,
    }
    snapshot_id = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    folder = store.snapshots / snapshot_id
    is_new = not (folder / "manifest.json").exists()
    if is_new:
        write_text(folder / "features.sql", feature_sql)
        write_json(folder / "manifest.json", {"id": snapshot_id, "published_at": _now(), **content})
    write_json(store.latest_snapshot, {"snapshot": snapshot_id})
    return open(snapshot_id, store), is_new


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _publish_table(store: Store, connection: duckdb.DuckDBPyConnection, table: str, day: str) -> dict:
    columns = {name: kind for name, kind, *_ in connection.sql(f"describe {table}").fetchall()}
    shape = hashlib.md5(json.dumps(columns).encode()).hexdigest()
    # A sum of hashes of rows does not depend on their order.
    days = connection.sql(
        f"select coalesce(strftime({day}, '%Y-%m-%d'), 'unknown') as dt, count(*), "
        "sum(md5_number_lower(cast(t as varchar))) "
        f"from {table} as t group by dt order by dt"
    ).fetchall()
    files = [
        {
            "dt": dt,
            "file": f"dt={dt}/{hashlib.md5(f'{shape}{content}{rows}'.encode()).hexdigest()}.parquet",
            "rows": rows,
        }
        for dt, rows, content in days
    ]
    folder = store.tables / table
    if missing := [entry for entry in files if not (folder / entry["file"]).exists()]:
        _write_days(connection, table, day, folder, missing)
    return {"columns": columns, "rows": sum(entry["rows"] for entry in files), "files": files}


def _write_days(connection: duckdb.DuckDBPyConnection, table: str, day: str, folder: Path, entries: list[dict]) -> None:
    draft = folder / f".draft-{os.getpid()}"
    for leftover in folder.glob(".draft-*"):
        shutil.rmtree(leftover)
    draft.mkdir(parents=True)
    days = ", ".join(f"'{entry['dt']}'" for entry in entries)
    connection.execute(
        f"copy (select *, coalesce(strftime({day}, '%Y-%m-%d'), 'unknown') as dt from {table} where dt in ({days})) "
        f"to '{str(draft).replace(chr(39), chr(39) * 2)}' (format parquet, compression zstd, partition_by (dt))"
    )
    for entry in entries:
        (written,) = (draft / f"dt={entry['dt']}").iterdir()
        target = folder / entry["file"]
        target.parent.mkdir(exist_ok=True)
        written.replace(target)
    shutil.rmtree(draft)
