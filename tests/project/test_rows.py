"""The published rows are those of commit a82af0b: rows.json holds their counts and checksums.

A checksum stands for one column. It is the sum, modulo 2**60, of one number per row: the first
60 bits of the MD5 of the row's key and the column's value, both as text. It is exact, depends
neither on the order of the rows nor on the names of the columns, and changes when two rows swap
their values. NULL and the empty text differ. Floats are rounded to six decimals, because the order
of a sum may change their last digit. Times are in UTC.

How to change rows.json:
- A table or column has another name: rename it there. The checksums stay.
- An intended change of rows: replace the figures of the columns concerned by those that the
  failing test prints, and add a sentence with the reason to "changes".
- Each list of figures has one figure per input, in the order of "inputs".
- Tables and columns that rows.json does not name are not compared.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from runs import copy_project, run
from test_real_logs import LOGS, bring

ROWS = Path(__file__).with_name("rows.json")
SALT = "rows"  # personal values are hashed with it, so it must be the same in each build
SIMULATED = {
    "simulated": {"days": 10, "sessions_per_day": 400},
    "demo": {"days": 30, "sessions_per_day": 800},
}


@pytest.mark.parametrize("name", ["simulated", pytest.param("demo", marks=pytest.mark.faults)])
def test_the_rows_of_simulated_logs_are_the_same(untouched, tmp_path, name):
    store = tmp_path / "store"
    simulate(untouched, store, **SIMULATED[name])

    build(untouched, store)

    sentences = differences(store, name)
    assert not sentences, "\n".join(sentences)


@pytest.mark.skipif(not LOGS.is_dir(), reason=f"the real logs are not at {LOGS}")
@pytest.mark.parametrize("name", ["simple_shop", pytest.param("luma", marks=pytest.mark.faults)])
def test_the_rows_of_real_logs_are_the_same(project, tmp_path, name):
    copy = copy_project(project, tmp_path / "own")
    bring(copy, name, 5)

    build(copy, copy / "data")

    sentences = differences(copy / "data", name)
    assert not sentences, "\n".join(sentences)


def test_a_checksum_depends_on_the_values_and_not_on_the_order_of_rows():
    def checksum(*values: str) -> str:
        source = f"(values {', '.join(values)}) as t(id, value)"
        return checksums(source, ["id"], {"value": "VARCHAR"})["value"]

    assert checksum("(1, 'a')", "(2, 'b')") == checksum("(2, 'b')", "(1, 'a')")
    assert checksum("(1, 'a')", "(2, 'b')") != checksum("(1, 'b')", "(2, 'a')")
    assert len({checksum("(1, '')"), checksum("(1, null)"), checksum("(1, 'null')")}) == 3


def test_a_difference_names_table_column_and_counts(tmp_path):
    shops = {"key": ["id"], "rows": [3], "columns": {"id": ["0"], "city": ["0"]}}
    orders = {"key": ["id"], "rows": [0], "columns": {"id": ["0"]}}
    rows = {"inputs": ["small"], "tables": {"shops": shops, "orders": orders}}
    columns = {"id": "INTEGER"}
    publish(tmp_path, {"shops": {"columns": columns, "rows": 1, "files": [{"file": "a.parquet"}]}})
    duckdb.sql("select 1 as id").write_parquet(str(tmp_path / "tables" / "shops" / "a.parquet"))
    now = checksums("(select 1 as id)", ["id"], columns)["id"]

    assert differences(tmp_path, "small", rows) == [
        "small: shops has 3 rows in rows.json, 1 now",
        f"small: shops.id has checksum 0 in rows.json (3 rows), {now} now (1 rows)",
        "small: the column shops.city is missing",
        "small: the table orders is missing",
    ]


def publish(store: Path, tables: dict[str, dict]) -> None:
    """Write a manifest of these tables as the store's latest snapshot, and a folder for each."""
    for name in tables:
        (store / "tables" / name).mkdir(parents=True)
    (store / "snapshots" / "one").mkdir(parents=True)
    (store / "snapshots" / "latest.json").write_text('{"snapshot": "one"}')
    (store / "snapshots" / "one" / "manifest.json").write_text(json.dumps({"tables": tables}))


def simulate(project: Path, store: Path, *, days: int, sessions_per_day: int) -> None:
    """Write the logs of so many days from 2026-01-01 into the store."""
    size = ["--days", str(days), "--sessions-per-day", str(sessions_per_day)]
    paths = ["--raw", str(store / "raw"), "--truth", str(store / "truth.parquet")]
    command = [
        "-m",
        "jollyboat.cli",
        "simulate",
        "--seed",
        "7",
        "--start",
        "2026-01-01",
        *size,
        *paths,
    ]
    simulation = run(project, store, *command)
    assert simulation.returncode == 0, simulation.stdout


def build(project: Path, store: Path) -> None:
    """Publish a snapshot of the store's logs, with the salt that rows.json was made with."""
    (store / ".salt").write_text(SALT)
    data = run(project, store, "flows/data.py", "run")
    assert data.returncode == 0, data.stdout


def differences(store: Path, name: str, rows: dict | None = None) -> list[str]:
    """A sentence for each difference between the store's latest snapshot and rows.json.

    `name` is the input, `rows` the content of rows.json.
    """
    rows = rows or json.loads(ROWS.read_text())
    index = rows["inputs"].index(name)
    tables = published(store)
    sentences = []
    for table, expected in rows["tables"].items():
        if table in tables:
            sentences += table_differences(store, table, tables[table], expected, index)
        else:
            sentences.append(f"the table {table} is missing")
    return [f"{name}: {sentence}" for sentence in sentences]


def table_differences(
    store: Path,
    table: str,
    entry: dict,
    expected: dict,
    index: int,
) -> Iterator[str]:
    """The differences of one table: its count of rows, then its columns."""
    before, now = expected["rows"][index], entry["rows"]
    if now != before:
        yield f"{table} has {before} rows in rows.json, {now} now"
    if absent := [column for column in expected["key"] if column not in entry["columns"]]:
        yield f"{table} cannot be compared: its key's columns {absent} are missing"
        return
    current = table_checksums(store, table, entry, expected["key"])
    for column, checksums_before in expected["columns"].items():
        checksum = checksums_before[index]
        if column not in current:
            yield f"the column {table}.{column} is missing"
        elif current[column] != checksum:
            then = f"has checksum {checksum} in rows.json ({before} rows)"
            yield f"{table}.{column} {then}, {current[column]} now ({now} rows)"


def published(store: Path) -> dict[str, dict]:
    """The tables of the latest snapshot, each with `columns` (name and type), `rows`, `files`."""
    snapshot = json.loads((store / "snapshots" / "latest.json").read_text())["snapshot"]
    return json.loads((store / "snapshots" / snapshot / "manifest.json").read_text())["tables"]


def table_checksums(store: Path, table: str, entry: dict, key: list[str]) -> dict[str, str]:
    """The checksum of each column of a published table; a table without rows has no files."""
    files = [str(store / "tables" / table / each["file"]) for each in entry["files"]]
    if not files:
        return dict.fromkeys(entry["columns"], f"{0:015x}")
    return checksums(f"read_parquet({files}, hive_partitioning = false)", key, entry["columns"])


def checksums(source: str, key: list[str], columns: dict[str, str]) -> dict[str, str]:
    """The checksum of each of these columns (name and type), as 15 hex digits.

    `source` is what follows `from` in SQL.
    """
    row = " || '|' || ".join(as_text(name, columns.get(name, "")) for name in key)
    sums = [
        f"sum(('0x' || substr(md5({row} || '|' || {as_text(name, kind)}), 1, 15))::bigint)"
        for name, kind in columns.items()
    ]
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        totals = connection.sql(f"select {', '.join(sums)} from {source}").fetchone()
    return {name: f"{total % 2**60:015x}" for name, total in zip(columns, totals, strict=True)}


def as_text(name: str, kind: str) -> str:
    """A column as text in SQL that is never NULL."""
    value = f'round("{name}", 6)' if kind in {"DOUBLE", "FLOAT"} else f'"{name}"'
    return f"coalesce('=' || cast({value} as varchar), 'null')"
