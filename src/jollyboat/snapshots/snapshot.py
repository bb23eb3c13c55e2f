"""Snapshots: which immutable files make one trusted state of the tables. Readers use these, never the warehouse."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import duckdb

from jollyboat.snapshots import distribution
from jollyboat.store import Store, default_store, quoted, read_json, write_json, write_text
from jollyboat.store.errors import UserError
from jollyboat.warehouse.warehouse import connect, locked, published_queries, published_tables

DAYS_AT_ONCE = 100  # each is an open file, of which a process may have 256 (macOS)
SAMPLE = "features_sample.parquet"


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

    @property
    def statuses(self) -> dict[str, int]:
        """How many sessions have which status."""
        return self.manifest.get("statuses", {})

    @property
    def label_rate(self) -> float | None:
        """The share of the sessions to learn from that have the outcome; None where there are none."""
        count = self.statuses.get("train")
        return self.manifest["positive_count"] / count if count else None

    def columns(self, table: str) -> dict[str, str]:
        """The columns of a table with their DuckDB types; UserError where the snapshot has no such table."""
        return self._table(table)["columns"]

    def files(self, table: str) -> list[Path]:
        """The Parquet files of a table; UserError where one is gone."""
        paths = [self.store.tables / table / entry["file"] for entry in self._table(table)["files"]]
        for path in paths:
            if not path.exists():
                raise UserError(
                    f"Snapshot {self.id} misses its file {path}; `make clean data` builds it again from the raw logs."
                )
        return paths

    def scan(self, table: str) -> str:
        """A table or view as what stands after `from` in DuckDB's SQL, in any connection."""
        if view := self.manifest.get("views", {}).get(table):
            return (
                "("
                + re.sub(r"\bwarehouse\.main\.(\w+)", lambda named: self.scan(named[1]), view)
                + ")"
            )
        if paths := [str(path) for path in self.files(table)]:
            return f"read_parquet({paths}, hive_partitioning = false)"
        columns = ", ".join(
            f'cast(null as {kind}) as "{name}"' for name, kind in self.columns(table).items()
        )
        return f"(select {columns} where false)"

    def sample(self) -> str:
        """A sample of the features as what stands after `from` in SQL: one file, however many days there are."""
        path = self.store.snapshots / self.id / SAMPLE
        return f"read_parquet('{quoted(path)}')" if path.exists() else self.scan("session_features")

    def relation(self, table: str) -> duckdb.DuckDBPyRelation:
        """A table as a DuckDB relation, to go on in SQL: `snapshot.relation("events").filter("price > 10").df()`."""
        return self._connection.sql(f"from {self.scan(table)}")

    def frame(self, table: str):
        """A table as a pandas data frame."""
        return self.relation(table).df()

    def rows_of(self, table: str, entities):
        """The rows of a table of the entities in a data frame (tenant_id, entity_id), as a data frame."""
        self._connection.register("asked", entities)
        return (
            self.relation(table)
            .join(self._connection.table("asked"), "tenant_id, entity_id", how="semi")
            .df()
        )

    def _table(self, table: str) -> dict:
        try:
            return self.manifest["tables"][table]
        except KeyError:
            known = ", ".join(self.manifest["tables"])
            raise UserError(f"Snapshot {self.id} has no table {table!r}; it has {known}.") from None

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect()


def find_latest(store: Store) -> Snapshot | None:
    """The newest published snapshot, to compare with; None where there is none, or where a file of it is gone."""
    try:
        latest = open("", store)
        for table in latest.manifest["tables"]:
            latest.files(table)
        return latest
    except UserError:
        return None


def open_latest(store: Store | None = None) -> Snapshot:
    """The newest published snapshot; UserError where nothing is published yet."""
    return open("", store)


def open(snapshot_id: str, store: Store | None = None) -> Snapshot:
    """A snapshot by its id ('' for the newest); UserError, with the ids there are, where it is unknown."""
    store = store or default_store()
    snapshot_id = snapshot_id or read_json(store.latest_snapshot, default={}).get("snapshot", "")
    if not snapshot_id:
        raise UserError(
            "There is no snapshot yet: `make data` publishes one from the logs in data/raw."
        )
    manifest = read_json(store.snapshots / snapshot_id / "manifest.json")
    if manifest is None:
        known = sorted(path.parent.name for path in store.snapshots.glob("*/manifest.json"))
        there_are = (
            f"there are {', '.join(known)} (none means the latest)"
            if known
            else "`make data` publishes one"
        )
        raise UserError(f"There is no snapshot {snapshot_id!r}; {there_are}.")
    return Snapshot(store, snapshot_id, manifest)


def publish(
    store: Store, facts: Mapping, feature_sql: str, notes: Mapping
) -> tuple[Snapshot, bool]:
    """Publish the warehouse's tables: files for what changed, a manifest, one pointer. Also says whether it is new.

    The snapshot's id is the hash of its content, `facts` among it, so that publishing the same rows again is the same
    snapshot; `notes` go into the manifest beside it. Killed at any point, the latest snapshot stays.
    """
    with connect(store) as connection:
        tables = {
            name: _publish_table(store, connection, name, day)
            for name, day in published_tables(store).items()
        }
        first, last = connection.sql(
            "select min(started_at), max(ended_at) from sessions"
        ).fetchone()
        counts = connection.sql(
            "select status, count(*), count(*) filter (where label) from session_features group by all order by status"
        ).fetchall()
        views = dict(
            connection.sql(
                "select view_name, sql from duckdb_views() where not internal"
            ).fetchall()
        )
        content = {
            "tables": tables,
            "views": {
                name: views[name].partition(" AS ")[2].rstrip(";")
                for name in published_queries(store)
            },
            "events_between": [str(first), str(last)],
            "statuses": {status: count for status, count, _ in counts},
            "positive_count": sum(positives for *_, positives in counts),
            "feature_sql": hashlib.sha256(feature_sql.encode()).hexdigest(),
            **facts,
        }
        snapshot_id = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        folder = store.snapshots / snapshot_id
        is_new = not (folder / "manifest.json").exists()
        if is_new:
            write_text(folder / "features.sql", feature_sql)
            distribution.sampled(connection.table("session_features")).to_parquet(
                str(folder / SAMPLE)
            )
    if is_new:
        _keep_moved_ids(Snapshot(store, snapshot_id, content), folder / "moved_ids.parquet")
        published_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        write_json(
            folder / "manifest.json",
            {"id": snapshot_id, "published_at": published_at, **content, **notes},
        )
    write_json(store.latest_snapshot, {"snapshot": snapshot_id})
    return open(snapshot_id, store), is_new


def _keep_moved_ids(new: Snapshot, path: Path) -> None:
    """Beside a new snapshot: the ids whose person has another name than in the one before (tenant_id, id_kind, id, then
    person_before, person_id). Not part of its content, for that depends on the logs alone."""
    old = find_latest(new.store)
    if old is None or "int_identities" not in old.manifest["tables"]:
        return
    duckdb.sql(
        "select tenant_id, id_kind, id, old.person_id as person_before, new.person_id "
        f"from {old.scan('int_identities')} as old inner join {new.scan('int_identities')} as new "
        "using (tenant_id, id_kind, id) where old.person_id != new.person_id order by all"
    ).to_parquet(str(path))


def _publish_table(
    store: Store, connection: duckdb.DuckDBPyConnection, table: str, day: str
) -> dict:
    columns = {name: kind for name, kind, *_ in connection.sql(f"describe {table}").fetchall()}
    shape = hashlib.md5(json.dumps(columns).encode()).hexdigest()
    # A sum of hashes of rows does not depend on their order; DuckDB's own costs a tenth of MD5 over text.
    days = connection.sql(
        f"select coalesce(cast({day} as date)::varchar, 'unknown') as dt, count(*), sum(hash(t)) "
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
    missing = [entry for entry in files if not (folder / entry["file"]).exists()]
    for start in range(0, len(missing), DAYS_AT_ONCE):
        _write_days(connection, table, day, folder, missing[start : start + DAYS_AT_ONCE])
    return {"columns": columns, "rows": sum(entry["rows"] for entry in files), "files": files}


def _write_days(
    connection: duckdb.DuckDBPyConnection, table: str, day: str, folder: Path, entries: list[dict]
) -> None:
    draft = folder / f".draft-{os.getpid()}"
    for leftover in folder.glob(".draft-*"):
        shutil.rmtree(leftover)
    draft.mkdir(parents=True)
    days = ", ".join(f"'{entry['dt']}'" for entry in entries)
    connection.execute(
        f"copy (select *, coalesce(cast({day} as date)::varchar, 'unknown') as dt from {table} where dt in ({days})) "
        f"to '{quoted(draft)}' (format parquet, compression zstd, partition_by (dt))"
    )
    for entry in entries:
        (written,) = (draft / f"dt={entry['dt']}").iterdir()
        target = folder / entry["file"]
        target.parent.mkdir(exist_ok=True)
        written.replace(target)
    shutil.rmtree(draft)


def all_of(store: Store) -> list[Snapshot]:
    """Every published snapshot, newest first."""
    found = [open(path.parent.name, store) for path in store.snapshots.glob("*/manifest.json")]
    return sorted(found, key=lambda each: each.manifest["published_at"], reverse=True)


def of_latest_run(store: Store) -> str | None:
    """The id of the snapshot that the latest training run began with, whether or not its model passed the gate."""
    run = read_json(store.latest_run, default={}).get("run")
    return (
        read_json(store.runs / run / "settings.json", default={}).get("snapshot") if run else None
    )


def uses(store: Store) -> dict[str, list[str]]:
    """Which snapshots are in use, and by what: the latest, the latest training run's, which may be deployed yet, and
    those that the champions and what they answer beside were made of."""
    found = {read_json(store.latest_snapshot, default={}).get("snapshot", ""): ["latest"]}
    if learned_from := of_latest_run(store):
        found.setdefault(learned_from, []).append("latest run")
    for pointer in sorted(store.models.glob("*/champion.json")):
        owner, named = pointer.parent.name, json.dumps(read_json(pointer))
        for manifest in sorted(pointer.parent.glob("*/manifest.json")):
            if f'"{manifest.parent.name}"' in named:
                by = found.setdefault(read_json(manifest)["snapshot"], [])
                by += [f"champion of {owner}"] if f"champion of {owner}" not in by else []
    return found


def prune(store: Store, keep: int) -> tuple[list[str], int]:
    """Remove all snapshots but the `keep` newest and those in use, then the files that no snapshot needs any more.

    Returns the ids removed and how many bytes went. Killed in between, the same call finishes it.
    """
    with locked(store):  # a snapshot that is being published has files that no manifest names yet
        in_use = uses(store)
        gone = [each.id for each in all_of(store)[max(keep, 1) :] if each.id not in in_use]
        return gone, remove(store, gone)


def remove(store: Store, ids: list[str]) -> int:
    """Remove these snapshots and every file that no other needs; how many bytes of tables went.

    Where the latest is among them, the newest of those that are left is the latest.
    """
    if read_json(store.latest_snapshot, default={}).get("snapshot") in ids:
        if left := [each.id for each in all_of(store) if each.id not in ids]:
            write_json(store.latest_snapshot, {"snapshot": left[0]})
        else:
            store.latest_snapshot.unlink()
    for each in ids:
        (store.snapshots / each / "manifest.json").unlink(missing_ok=True)
    for folder in [path for path in store.snapshots.iterdir() if path.is_dir()]:
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder)
    needed = {
        path
        for each in all_of(store)
        for table in each.manifest["tables"]
        for path in each.files(table)
    }
    unneeded = [path for path in store.tables.glob("*/dt=*/*.parquet") if path not in needed]
    size = sum(path.stat().st_size for path in unneeded)
    for path in unneeded:
        path.unlink()
    return size


def format_all(store: Store) -> str:
    """A line for each snapshot, newest first; UserError where there is none."""
    open_latest(store)
    return "\n".join(_lines_of_all(store))


def _lines_of_all(store: Store) -> Iterator[str]:
    in_use = uses(store)
    yield f"{'snapshot':<14}{'published':<18}{'events':>12}{'sessions':>12}{'to learn from':>15}{'label rate':>12}"
    for each in all_of(store):
        tables, when = each.manifest["tables"], each.manifest["published_at"][:16].replace("T", " ")
        yield (
            f"{each.id:<14}{when:<18}{tables['events']['rows']:>12,}{tables['sessions']['rows']:>12,}"
            f"{each.statuses.get('train', 0):>15,}{_percent(each.label_rate):>12}"
            f"  {', '.join(in_use.get(each.id, []))}".rstrip()
        )


def format_one(one: Snapshot) -> str:
    """What a snapshot holds, as lines for the terminal."""
    return "\n".join(_lines_of_one(one))


def _lines_of_one(one: Snapshot) -> Iterator[str]:
    manifest, used_by = one.manifest, ", ".join(uses(one.store).get(one.id, [])) or "nobody"
    statuses = ", ".join(f"{count:,} {status}" for status, count in one.statuses.items())
    yield f"snapshot {one.id}, published {manifest['published_at']}, code {manifest['code']}, used by {used_by}"
    yield f"events from {manifest['events_between'][0]} to {manifest['events_between'][1]}"
    yield f"sessions: {statuses}; label rate {_percent(one.label_rate)}"
    yield from (f"audit: not true that {sentence}" for sentence in manifest.get("warnings", []))
    yield f"{'table':<22}{'rows':>12}{'columns':>9}{'files':>8}{'MB':>9}"
    for name, table in manifest["tables"].items():
        size = sum(path.stat().st_size for path in one.files(name)) / 1e6
        yield f"{name:<22}{table['rows']:>12,}{len(table['columns']):>9}{len(table['files']):>8}{size:>9.1f}"


def format_difference(a: Snapshot, b: Snapshot) -> str:
    """Rows, columns, label rate and distributions of two snapshots, side by side, as lines."""
    return "\n".join(_lines_of_difference(a, b))


def _lines_of_difference(a: Snapshot, b: Snapshot) -> Iterator[str]:
    yield f"from {a.id} ({a.manifest['published_at']}) to {b.id} ({b.manifest['published_at']})"
    yield f"label rate: {_percent(a.label_rate)} -> {_percent(b.label_rate)}"
    if a.manifest["code"] != b.manifest["code"]:
        yield f"code: {a.manifest['code']} -> {b.manifest['code']}"
    for name in {**a.manifest["tables"], **b.manifest["tables"]}:
        before, after = (
            each.manifest["tables"].get(name, {"rows": 0, "columns": {}}) for each in (a, b)
        )
        yield f"{name}: {before['rows']:,} rows -> {after['rows']:,} ({after['rows'] - before['rows']:+,})"
        for column in {**before["columns"], **after["columns"]}:
            old, new = (each["columns"].get(column, "none") for each in (before, after))
            if old != new:
                yield f"  {column}: {old} -> {new}"
    yield "distributions of session_features, the furthest apart first (0 is the same, above 0.25 is far):"
    with duckdb.connect() as connection:
        rows = distribution.compare(
            connection, a.scan("session_features"), b.scan("session_features")
        )
    for row in [row for row in rows if row["distance"] >= 0.001]:
        yield f"  {row['column_name']:<32}{row['distance']:>8.3f}  {row['before']} -> {row['after']}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
