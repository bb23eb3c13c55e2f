"""Snapshots: each names the immutable files of one trusted state of the tables.

Readers use snapshots, never the warehouse.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import duckdb

from jollyboat.snapshots import distribution, held_rows
from jollyboat.store import (
    Store,
    UserError,
    default_store,
    quoted,
    read_json,
    unused_name,
    write_json,
    write_text,
)
from jollyboat.warehouse.warehouse import (
    connect,
    other_questions,
    published_queries,
    published_tables,
    question,
)

KEYS = ["tenant_id", "entity_id", "point_at"]
DAYS_AT_ONCE = 100  # each is an open file; macOS allows a process 256
MOST_NAMES = 1_000  # of event types and of tenants, that a bundle has
NEARLY_ALL = 0.95  # of the events
TABLE = {"columns": dict, "files": [{"file": str}]}


@dataclass(frozen=True)
class Snapshot:
    """One published state of the tables; its rows never change.

    The store's question says whose features, statuses and labels these are.
    """

    store: Store
    id: str
    manifest: dict

    @property
    def features(self) -> str:
        """The name of the table of features and labels; of a ranking that of its points."""
        if self.is_ranking:
            return _prefixed(self.store.question, "points")
        return features_of(self.store.question)

    @property
    def is_ranking(self) -> bool:
        """Whether the question is which item comes next."""
        return "item" in self.definition

    @property
    def events_at_point(self) -> str:
        """The name of the query of the events that the features are made from."""
        return _prefixed(self.store.question, "events_at_point")

    @property
    def feature_sql(self) -> str:
        """The SQL that computed this snapshot's features, or a ranking's pairs."""
        return self._file("features.sql").read_text(encoding="utf-8")

    @property
    def definition(self) -> dict:
        """What is asked: see jollyboat.warehouse.questions; empty for the first question."""
        return self._of_question if self.store.question else {}

    @property
    def lookups(self) -> list[str]:
        """The names of the tables of slow statistics."""
        return [name for name in self.manifest["tables"] if name.startswith("lookup_")]

    @property
    def published_at(self) -> str:
        """The time of publication in UTC, in ISO 8601."""
        return str(self.manifest.get("published_at", "unknown"))

    @property
    def statuses(self) -> dict[str, int]:
        """The number of rows by status; of a ranking's points by whether a next item is known."""
        return self._of_question.get("statuses", {})

    @property
    def label_rate(self) -> float | None:
        """The share of the rows for training that have the outcome; None without such rows."""
        count = 0 if self.is_ranking else self.statuses.get("train")
        return self._of_question["positive_count"] / count if count else None

    @property
    def held(self) -> dict[str, dict]:
        """The tenants that are held back: their rows here are those of an earlier snapshot.

        Each has the `reason`, `since` (the day of the first run that held it back), `until` (the
        day of its last session here, or None) and `record_count` (its events that wait).
        """
        return self.manifest.get("held", {})

    @cached_property
    def ends_at(self) -> datetime | None:
        """Where the data ends, by the time of events; None without a session.

        A few later sessions do not move it: see the model int_data_end.
        """
        return self._data_end("occurred_until")

    @property
    def received_until(self) -> datetime | None:
        """Where the data ends, by the time of arrival; None as for `ends_at`."""
        return self._data_end("received_until")

    @property
    def prediction_points(self) -> list[int]:
        """The numbers of events at which sessions are predicted."""
        return [1] if self.store.question else self.manifest.get("prediction_points", [1])

    @property
    def outcome(self) -> str:
        """The condition on an event that is the outcome; "false" if it is no condition on one."""
        return "false" if self.store.question else self.manifest.get("outcome", "false")

    @property
    def personal_fields(self) -> list[str]:
        """The keys of the payload whose values are hashed."""
        return self.manifest.get("personal_fields", [])

    @cached_property
    def vocabulary(self) -> dict[str, list[str]]:
        """What requests can be compared with.

        `event_types` and `tenants`, neither if there are more than MOST_NAMES, and the `columns`
        that nearly all events fill.
        """
        events = self.relation("events")
        filled = ", ".join(f'avg(cast("{name}" is not null as integer))' for name in events.columns)
        shares = zip(events.columns, events.aggregate(filled).fetchone(), strict=True)
        return {
            "event_types": self._names(events, "event_type"),
            "tenants": self._names(events, "tenant_id"),
            "columns": [name for name, share in shares if share and share >= NEARLY_ALL],
        }

    @property
    def horizon_days(self) -> int:
        """The days after a point in which the outcome may follow; 0 for the rest of a session."""
        return self.definition.get("horizon_days") or 0

    def columns(self, table: str) -> dict[str, str]:
        """The columns of a table with their DuckDB types; UserError if there is no such table."""
        return self._table(table)["columns"]

    def files(self, table: str) -> list[Path]:
        """The Parquet files of a table; UserError if one is missing."""
        folder = self.store.tables / table
        paths = [folder / entry["file"] for entry in self._table(table)["files"]]
        for path in paths:
            if not path.exists():
                raise UserError(
                    f"Snapshot {self.id} misses its file {path}. Copy data/tables from a backup. "
                    "Without one, `make clean data` builds the tables again from the raw logs; it "
                    "also removes all runs and champions."
                )
        return paths

    def scan(self, table: str) -> str:
        """A table or view for the `from` clause of DuckDB's SQL, in any connection."""
        if view := self.manifest.get("views", {}).get(table):
            name = r"\bwarehouse\.main\.(\w+)"
            return f"({re.sub(name, lambda match: self.scan(match[1]), view)})"
        if paths := [str(path) for path in self.files(table)]:
            return f"read_parquet({paths}, hive_partitioning = false)"
        kinds = self.columns(table).items()
        columns = ", ".join(f'cast(null as {kind}) as "{name}"' for name, kind in kinds)
        return f"(select {columns} where false)"

    def sample(self) -> str:
        """A sample of the features for the `from` clause: one file for any number of days."""
        path = self._file("features_sample.parquet")
        if path.exists():
            return f"read_parquet('{quoted(path)}')"
        return self.scan(self.features)

    def relation(self, table: str) -> duckdb.DuckDBPyRelation:
        """A table as a DuckDB relation, for example `.relation("events").filter("price > 10")`."""
        return self._connection.sql(f"from {self.scan(table)}")

    def frame(self, table: str):
        """A table as a pandas data frame."""
        return self.relation(table).df()

    def rows_of(self, table: str, keys):
        """The rows with these keys, a data frame with some or all of KEYS, as a data frame."""
        names = [name for name in KEYS if name in keys]
        self._connection.register("requested", keys[names])
        requested = self._connection.table("requested")
        return self.relation(table).join(requested, ", ".join(names), how="semi").df()

    def training_rows(self):
        """The features with their labels, and whose rows they are: `person_id`, as a data frame."""
        rows = self.relation(self.features)
        if self.store.question:
            return rows.project("*, entity_id as person_id").df()
        if "person_id" not in self.columns("sessions"):  # of an earlier version
            return rows.df()
        persons = self.relation("sessions").project("tenant_id, session_id as entity_id, person_id")
        return rows.join(persons, "tenant_id, entity_id", how="left").df()

    @property
    def _of_question(self) -> dict:
        """The part of the manifest about the store's question."""
        if not self.store.question:
            return self.manifest
        questions = self.manifest.get("questions", {})
        if self.store.question not in questions:
            raise UserError(
                f"Snapshot {self.id} has no question {self.store.question}: run `make data`."
            )
        return questions[self.store.question]

    def _file(self, name: str) -> Path:
        return self.store.snapshots / self.id / _prefixed(self.store.question, name)

    def _data_end(self, column: str) -> datetime | None:
        if "int_data_end" in self.manifest["tables"]:
            return self.relation("int_data_end").project(column).fetchone()[0]
        until = self.manifest.get("events_between", ["None"])[-1]  # of an earlier version
        return None if until == "None" else datetime.fromisoformat(until)

    def _table(self, table: str) -> dict:
        tables = self.manifest["tables"]
        if table not in tables:
            names = ", ".join(tables)
            raise UserError(f"Snapshot {self.id} has no table {table!r}; it has {names}.")
        return tables[table]

    @staticmethod
    def _names(events: duckdb.DuckDBPyRelation, column: str) -> list[str]:
        """The column's values in order; none if there are more than MOST_NAMES."""
        values = events.filter(f"{column} is not null").project(column).distinct().order(column)
        names = [name for (name,) in values.limit(MOST_NAMES + 1).fetchall()]
        return names if len(names) <= MOST_NAMES else []

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect()


def features_of(question: str) -> str:
    """The name of a question's table of features; "" is the first, which is about sessions."""
    return f"{question}_features" if question else "session_features"


def _prefixed(question: str, name: str) -> str:
    return f"{question}_{name}" if question else name


def find_latest(store: Store) -> Snapshot | None:
    """The latest snapshot, to compare with; None if there is none or a file of it is missing."""
    try:
        latest = open("", store)
        for table in latest.manifest["tables"]:
            latest.files(table)
        return latest
    except UserError:
        return None


def open_latest(store: Store | None = None) -> Snapshot:
    """The latest snapshot; UserError if there is none yet."""
    return open("", store)


def latest_id(store: Store) -> str:
    """The id of the latest snapshot, or an empty text."""
    pointer = read_json(store.latest_snapshot, snapshot=str)
    return pointer["snapshot"] if pointer else ""


def open(snapshot_id: str, store: Store | None = None) -> Snapshot:
    """A snapshot by its id ('' for the latest); UserError lists the ids if it is unknown."""
    store = store or default_store()
    snapshot_id = snapshot_id or latest_id(store)
    if not snapshot_id:
        raise UserError(
            f"There is no snapshot{store.why_none()}. Run `make data`, which publishes one from "
            "the logs in data/raw."
        )
    manifest = read_json(store.snapshots / snapshot_id / "manifest.json", tables={str: TABLE})
    if manifest is None:
        ids = sorted(path.parent.name for path in store.snapshots.glob("*/manifest.json"))
        existing = f"there are {', '.join(ids)}; leave it out for the latest"
        remedy = existing if ids else "`make data` publishes one"
        raise UserError(f"There is no snapshot {snapshot_id!r}; {remedy}.")
    return Snapshot(store, snapshot_id, manifest)


def publish(
    store: Store,
    facts: Mapping,
    feature_sql: Mapping[str, str] | str,
    notes: Mapping,
    held: Mapping[str, str] | None = None,
    keeps_last: bool = True,
) -> tuple[Snapshot, bool]:
    """Publish the warehouse's tables; returns the snapshot and whether it is new.

    Of the tenants in `held`, each with the reason, the rows of the latest snapshot are published,
    or none without `keeps_last`.

    `feature_sql` has the SQL of each question's features; "" is the first, a text alone is its SQL.
    The id is the hash of the content with `facts`, so the same rows are the same snapshot.
    `notes` go into the manifest but not into the id. The pointer to the latest is written last:
    after a kill at any moment the snapshot before is still the latest.
    """
    if isinstance(feature_sql, str):
        feature_sql = {"": feature_sql}
    with connect(store) as connection:
        last = open_latest(store) if held and keeps_last and latest_id(store) else None
        held_back = _hold_back(store, connection, facts, last, held) if held else {}
        content = _describe_content(store, connection, feature_sql) | dict(facts) | held_back
        snapshot_id = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        folder = store.snapshots / snapshot_id
        is_new = not (folder / "manifest.json").exists()
        for question_name, sql in feature_sql.items() if is_new else ():
            write_text(folder / _prefixed(question_name, "features.sql"), sql)
            if Snapshot(store.of(question_name), snapshot_id, content).is_ranking:
                continue
            sample = distribution.sampled(connection.table(features_of(question_name)))
            sample.to_parquet(str(folder / _prefixed(question_name, "features_sample.parquet")))
    if is_new:
        _write_moved_ids(Snapshot(store, snapshot_id, content), folder / "moved_ids.parquet")
        published_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        manifest = {"id": snapshot_id, "published_at": published_at, **content, **notes}
        write_json(folder / "manifest.json", manifest)
    write_json(store.latest_snapshot, {"snapshot": snapshot_id})
    return open(snapshot_id, store), is_new


def _hold_back(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    facts: Mapping,
    last: Snapshot | None,
    held: Mapping[str, str],
) -> dict:
    """Make the connection read the rows of `last` for the tenants in `held`.

    Other code may have computed their features and labels: these are left out.
    """
    outdated = []
    if last and last.manifest.get("code") != facts.get("code"):
        names = other_questions(store)
        outdated = [features_of(name) for name in ["", *names]] + [
            f"{name}_points" for name in names
        ]
    tables = published_tables(store)
    return {"held": held_rows.keep_last_rows(connection, tables, last, held, outdated)}


def _describe_content(
    store: Store, connection: duckdb.DuckDBPyConnection, feature_sql: Mapping[str, str]
) -> dict:
    """What the id depends on; writes the tables' new files."""
    tables = {
        name: _publish_table(store, connection, name, day)
        for name, day in published_tables(store).items()
    }
    span = connection.sql("select min(started_at), max(ended_at) from sessions").fetchone()
    views = dict(
        connection.sql(
            "select view_name, sql from duckdb_views() where not internal and not temporary"
        ).fetchall()
    )
    return {
        "tables": tables,
        "views": {
            name: views[name].partition(" AS ")[2].rstrip(";") for name in published_queries(store)
        },
        "events_between": [str(moment) for moment in span],
        **question(store),
        **_count_statuses(connection, "", feature_sql),
    } | _describe_others(store, connection, feature_sql)


def _describe_others(
    store: Store, connection: duckdb.DuckDBPyConnection, feature_sql: Mapping[str, str]
) -> dict:
    """The definitions and counts of all questions but the first, if there are any."""
    others = {
        name: definition | _count_statuses(connection, name, feature_sql, "item" in definition)
        for name, definition in other_questions(store).items()
        if name in feature_sql
    }
    return {"questions": others} if others else {}


def _count_statuses(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    feature_sql: Mapping[str, str],
    is_ranking: bool = False,
) -> dict:
    rows = (
        "(select if(item is null, 'no_next', 'train') as status, item is not null as label "
        f"from {name}_points)"
    )
    counts = connection.sql(
        "select status, count(*), count(*) filter (where label) "
        f"from {rows if is_ranking else features_of(name)} group by all order by status"
    ).fetchall()
    return {
        "statuses": {status: count for status, count, _ in counts},
        "positive_count": sum(positives for *_, positives in counts),
        "feature_sql": hashlib.sha256(feature_sql[name].encode()).hexdigest(),
    }


def _write_moved_ids(new: Snapshot, path: Path) -> None:
    """Write the ids whose person_id differs from the latest snapshot's.

    They are no part of the content, which depends on the logs alone.
    """
    old = find_latest(new.store)
    if old is None or "int_identities" not in old.manifest["tables"]:
        return
    duckdb.sql(
        "select tenant_id, id_kind, id, old.person_id as person_before, new.person_id "
        f"from {old.scan('int_identities')} as old "
        f"inner join {new.scan('int_identities')} as new using (tenant_id, id_kind, id) "
        "where old.person_id != new.person_id order by all"
    ).to_parquet(str(path))


def _publish_table(
    store: Store, connection: duckdb.DuckDBPyConnection, table: str, day: str
) -> dict:
    columns = {name: kind for name, kind, *_ in connection.sql(f"describe {table}").fetchall()}
    shape = hashlib.md5(json.dumps(columns).encode()).hexdigest()
    # A sum of row hashes ignores their order; DuckDB's hash takes a tenth of MD5 over text.
    row = unused_name("t", columns)
    days = connection.sql(
        f"select coalesce(cast({day} as date)::varchar, 'unknown'), count(*), sum(hash({row})) "
        f"from {table} as {row} group by 1 order by 1"
    ).fetchall()
    files = []
    for dt, rows, content in days:
        digest = hashlib.md5(f"{shape}{content}{rows}".encode()).hexdigest()
        files.append({"dt": dt, "file": f"dt={dt}/{digest}.parquet", "rows": rows})
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
    dt = unused_name("dt", connection.table(table).columns)
    connection.execute(
        f"copy (select *, coalesce(cast({day} as date)::varchar, 'unknown') as {dt} "
        f"from {table} where {dt} in ({days})) "
        f"to '{quoted(draft)}' (format parquet, compression zstd, partition_by ({dt}))"
    )
    for entry in entries:
        (written,) = (draft / f"{dt}={entry['dt']}").iterdir()
        target = folder / entry["file"]
        target.parent.mkdir(exist_ok=True)
        written.replace(target)
    shutil.rmtree(draft)


def all_of(store: Store) -> list[Snapshot]:
    """Every published snapshot, the newest first."""
    paths = store.snapshots.glob("*/manifest.json")
    existing = [open(path.parent.name, store) for path in paths]
    return sorted(existing, key=lambda each: each.published_at, reverse=True)
