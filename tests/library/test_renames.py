"""A rename is recognized by values or their shape, and a lack of records names empty files."""

import json
import random
import string
import uuid
from datetime import date

import duckdb
import pytest

from jollyboat.store import Store
from jollyboat.warehouse import changes

ALPHABET = string.ascii_letters + string.digits + "_-"
DAYS = date(2026, 3, 4), date(2026, 3, 5)


def drawn(alphabet: str, length: int):
    return lambda source: "".join(source.choices(alphabet, k=length))


def find(folder, before: dict, after: dict) -> set[str]:
    """The renames in a source whose fields change from one day to the next; each field has a maker of values."""
    store, source = Store(folder), random.Random(7)
    with duckdb.connect() as connection:
        connection.sql(
            "create table landed_files (read_from text, file_seq int, arrived_on date, source text)"
        )
        connection.sql(
            "create table source_changes (source text, kind text, field text, changed_on date, was_before text, "
            "was_after text, value_before double, value_after double, is_recent boolean)"
        )
        for number, (day, fields) in enumerate(zip(DAYS, (before, after), strict=True)):
            lines = [
                json.dumps({name: make(source) for name, make in fields.items()})
                for _ in range(300)
            ]
            (folder / f"{number}.jsonl").write_text("\n".join(lines))
            connection.execute(
                "insert into landed_files values (?, ?, ?, 'app')", [f"{number}.jsonl", number, day]
            )
        for kind, fields, share in [("gone", before, (1, 0)), ("new", after, (0, 1))]:
            for name in fields:
                connection.execute(
                    "insert into source_changes values ('app', ?, ?, ?, '', '', ?, ?, true)",
                    [kind, name, DAYS[1], *share],
                )
        rows = changes.find(connection, store)
    return {row["field"] for row in rows if row["kind"] == "renamed"}


@pytest.mark.parametrize(
    "make",
    {
        "uuid": lambda source: str(uuid.UUID(int=source.getrandbits(128), version=4)),
        "nanoid": drawn(ALPHABET, 21),
        "twelve characters": drawn(ALPHABET, 12),
        "small letters and digits": drawn(string.ascii_lowercase + string.digits, 16),
        "hex": drawn("0123456789abcdef", 32),
        "digits of GA4": lambda source: (
            f"{source.randint(10**8, 10**10)}.{source.randint(10**9, 2 * 10**9)}"
        ),
    }.values(),
)
def test_a_renamed_column_of_random_ids_is_a_rename(tmp_path, make):
    assert {"visitor → visitorId"} == find(tmp_path, {"visitor": make}, {"visitorId": make})


def test_two_columns_of_random_ids_are_renamed_each_by_its_name(tmp_path):
    make = drawn(ALPHABET, 12)

    renames = find(
        tmp_path, {"client": make, "session": make}, {"sessionRef": make, "clientId": make}
    )

    assert {"client → clientId", "session → sessionRef"} == renames


@pytest.mark.parametrize(
    "other",
    [
        drawn(ALPHABET, 20),
        lambda source: f"2026-03-{source.randint(10, 28)}",
        lambda source: source.choice(["checkout", "purchase", "category"]),
    ],
)
def test_a_column_of_other_values_is_no_rename_of_ids(tmp_path, other):
    assert set() == find(tmp_path, {"visitor": drawn(ALPHABET, 10)}, {"other": other})


def test_a_day_with_few_records_names_its_empty_files(tmp_path):
    files = (
        "(values ('a.csv', 9, 0), ('b.csv', 0, 0), ('c.jsonl', 2, 2)) as f (file, lines, blanks)"
    )
    with duckdb.connect() as connection:
        connection.execute(
            "create table landed_files as select 'raw/app/' || file as file, 'app' as source, "
            "date '2026-03-04' as arrived_on, lines as line_count, blanks as blank_count, "
            f"file as read_from, 1 as file_seq from {files}"
        )
        connection.execute(
            "create table source_changes as select 'app' as source, 'volume' as kind, "
            "'records of the day' as field, date '2026-03-04' as changed_on, '' as was_before, "
            "'' as was_after, 90.0 as value_before, 9.0 as value_after, true as is_recent"
        )
        (row,) = changes.find(connection, Store(tmp_path))

    assert row["hint"] == (
        "check that every file has arrived whole; empty: data/raw/app/b.csv, data/raw/app/c.jsonl"
    )
