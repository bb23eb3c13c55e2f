"""Snapshots: published whole or not at all, listed, shown, compared and pruned."""

import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from jollyboat.cli.main import jollyboat
from jollyboat.erasure import erase
from jollyboat.snapshots import distribution, retention, snapshot, summary
from jollyboat.store import PROJECT, Store, UserError, write_json

COLUMNS = {
    "events": "'acme' as tenant_id, 'e' || i as event_id, i * 1.5 as price",
    "sessions": "'acme' as tenant_id, 's' || i as session_id, timestamp '2026-01-03' as ended_at",
    "int_identities": "'acme' as tenant_id, 'user' as id_kind, 'u' || i as id, 'u:u' || i as person_id",
    "session_features": "'acme' as tenant_id, 's' || i as entity_id, 'train' as status, i % 4 = 0 as label, i as pace",
}

PUBLISHED = {
    "events": "arrived_on",
    "quarantined_events": "arrived_on",
    "duplicate_events": "arrived_on",
    "sessions": "started_at",
    "session_features": "point_at",
    "int_identities": "first_seen_at",
    "lookup_product": "valid_to",
}


def build(store: Store, rows: int, extra: str = "") -> None:
    """A warehouse of tables with so many rows, a day for each ten of them."""
    write_json(store.dbt / "built.json", {"published_by": PUBLISHED, "published_queries": []})
    store.warehouse.unlink(missing_ok=True)
    with duckdb.connect(str(store.warehouse)) as connection:
        for table, day in PUBLISHED.items():
            columns = COLUMNS.get(table, "'acme' as tenant_id, i as number") + (
                extra if table == "events" else ""
            )
            times = "timestamp '2026-01-01' + interval (i // 10) day"
            also = f", {times} as occurred_at" if table == "events" else ""
            connection.execute(
                f"create table {table} as select {columns}, {times} as {day}{also} from range({rows}) t(i)"
            )


def publish(store: Store, code: str = "c1") -> snapshot.Snapshot:
    return snapshot.publish(store, {"code": code}, "select 1", {"warnings": []})[0]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("STORE_ROOT", str(tmp_path / "data"))
    return Store(tmp_path / "data")


@pytest.fixture
def three(store: Store) -> list[str]:
    """The ids of three snapshots, the oldest first."""
    ids = []
    for rows, extra in [(40, ""), (45, ""), (60, ", 'x' as color")]:
        build(store, rows, extra)
        ids.append(publish(store).id)
    return ids


def crown(store: Store, snapshot_id: str) -> None:
    write_json(store.bundle("shared", "v1") / "manifest.json", {"snapshot": snapshot_id})
    write_json(store.champion("shared"), {"version": "v1", "history": []})


def test_the_same_rows_are_the_same_snapshot_whatever_is_noted_beside(store):
    build(store, 20)
    first = publish(store)

    again, is_new = snapshot.publish(store, {"code": "c1"}, "select 1", {"warnings": ["something"]})
    assert (again.id, is_new) == (first.id, False)
    assert publish(store, code="c2").id != first.id


def test_files_of_untouched_days_keep_their_name_and_time(store):
    build(store, 40)
    publish(store)
    before = {path: path.stat().st_mtime_ns for path in store.tables.rglob("*.parquet")}
    build(store, 45)

    publish(store)
    after = {path: path.stat().st_mtime_ns for path in store.tables.rglob("*.parquet")}
    assert before.items() < after.items()
    assert len(after) == len(before) + len(PUBLISHED)


def test_more_days_are_published_than_a_process_may_open_files(store):
    build(store, 3_660)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        published = publish(store)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert [len(table["files"]) for table in published.manifest["tables"].values()] == [366] * len(
        PUBLISHED
    )


def test_snapshots_are_listed_newest_first_with_their_users(store, three):
    crown(store, three[0])

    heading, *lines = summary.format_all(store).splitlines()

    assert heading.split()[0] == "snapshot"
    assert [line.split()[0] for line in lines] == three[::-1]
    assert lines[0].endswith("latest") and lines[2].endswith("champion of shared")
    assert lines[0].split()[3:7] == ["60", "60", "60", "25"]


def test_a_difference_names_rows_columns_label_rate_and_what_moved(store, three):
    lines = summary.format_difference(
        *(snapshot.open(each, store) for each in (three[0], three[2]))
    )

    assert "events: 40 rows -> 60 (+20)" in lines
    assert "  color: none -> VARCHAR" in lines
    assert "label rate: 25 % -> 25 %" in lines
    assert "  pace " in lines and "mean 19.5" in lines and "mean 29.5" in lines


def test_one_snapshot_is_shown_with_its_tables(store, three):
    lines = summary.format_one(snapshot.open("", store))

    assert f"snapshot {three[2]}" in lines and "used by latest" in lines
    assert "session_features" in lines


def test_pruning_keeps_the_newest_and_those_in_use_and_every_file_that_they_need(store, three):
    crown(store, three[0])
    build(store, 70)
    newest = publish(store)
    read = {each: snapshot.open(each, store).frame("events") for each in (three[0], newest.id)}
    before = set(store.tables.rglob("*.parquet"))

    gone, size = retention.prune(store, keep=1)

    assert sorted(gone) == sorted(three[1:]) and size > 0
    assert set(store.tables.rglob("*.parquet")) < before
    for each, rows in read.items():
        assert rows.equals(snapshot.open(each, store).frame("events"))
    assert retention.prune(store, keep=1) == ([], 0)


def test_the_snapshot_of_the_latest_run_which_may_be_deployed_yet_is_not_pruned(store, three):
    write_json(store.latest_run, {"run": "r1"})
    write_json(store.runs / "r1" / "settings.json", {"snapshot": three[1]})

    retention.prune(store, keep=1)

    assert {each.id for each in snapshot.all_of(store)} == {three[1], three[2]}


def test_the_latest_is_never_pruned_even_where_it_is_not_the_newest(store, three):
    write_json(store.latest_snapshot, {"snapshot": three[0]})

    retention.prune(store, keep=1)

    assert {each.id for each in snapshot.all_of(store)} == {three[0], three[2]}


def test_where_the_latest_is_removed_the_newest_that_is_left_is_the_latest(store, three):
    retention.remove(store, [three[2]])
    assert snapshot.open_latest(store).id == three[1]

    retention.remove(store, three)
    assert snapshot.find_latest(store) is None and not store.latest_snapshot.exists()


def test_a_prune_that_was_killed_is_finished_by_the_next(store, three, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            retention.prune(store, keep=1)

    retention.prune(store, keep=1)
    assert [path.name for path in store.snapshots.iterdir() if path.is_dir()] == [three[2]]
    needed = {path for table in PUBLISHED for path in snapshot.open_latest(store).files(table)}
    assert needed == set(store.tables.rglob("*.parquet"))


@pytest.mark.parametrize("command", [["show", "nix"], ["diff", "nix", ""]])
def test_an_unknown_id_is_refused_with_the_ids_there_are(store, three, command):
    with pytest.raises(
        UserError, match=r"There is no snapshot 'nix'; there are .*" + sorted(three)[0]
    ):
        jollyboat(["snapshots", *command], standalone_mode=False)


def test_without_a_snapshot_the_list_says_how_to_make_one(store):
    with pytest.raises(UserError, match="Run `make data`, which publishes one"):
        jollyboat(["snapshots", "list"], standalone_mode=False)


def test_a_reader_sees_a_whole_snapshot_at_any_moment(store):
    """Three publications come round and round, with pruning between, while a reader opens the latest all the time."""
    builds = [Store(store.root.with_name(f"build{rows}")) for rows in (300, 310, 320)]
    for each, rows in zip(builds, (300, 310, 320), strict=True):
        build(each, rows)
    shutil.copytree(builds[0].root, store.root)
    publish(store)
    seen, broken, is_over = set(), [], threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                latest = snapshot.open_latest(store)
                rows = {
                    table: latest.relation(table).count("*").fetchone()[0] for table in PUBLISHED
                }
            except (UserError, duckdb.Error, OSError) as error:
                broken.append(repr(error))
                continue
            seen.add(latest.id)
            if set(rows.values()) != {latest.manifest["tables"]["events"]["rows"]}:
                broken.append(f"{latest.id}: {rows}")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(12):
            shutil.copy(builds[turn % 3].warehouse, store.warehouse)
            publish(store)
            if turn == 6:
                retention.prune(store, keep=3)
    finally:
        is_over.set()
        reader.join()

    assert broken == []
    assert len(seen) == 3


# Publishes, and is killed when so many files were replaced, before or after the last one is.
KILLED = """
import os, sys
from pathlib import Path
from jollyboat.erasure import erase
from jollyboat.snapshots import distribution, snapshot
from jollyboat.store import Store
replace, left, moment = os.replace, int(sys.argv[2]), sys.argv[3]
def replace_or_die(*arguments):
    global left
    left -= 1
    if left == 0 and moment == "before":
        os.kill(os.getpid(), 9)
    replace(*arguments)
    if left == 0:
        os.kill(os.getpid(), 9)
os.replace = replace_or_die
snapshot.publish(Store(Path(sys.argv[1])), {"code": "c1"}, "select 1", {"warnings": []})
"""


@pytest.mark.faults
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_publication_killed_at_every_replacement_of_a_file_ends_as_one_left_in_peace(
    store, tmp_path, moment
):
    peaceful = Store(tmp_path / "peaceful")
    build(store, 25)
    first = publish(store).id
    for each in (store, peaceful):
        build(each, 40, ", 'x' as color")
    expected = publish(peaceful)
    replacements = 1

    while True:
        for path in store.tables.rglob("*.parquet"):
            if path not in {
                file for table in PUBLISHED for file in snapshot.open(first, store).files(table)
            }:
                path.unlink()
        shutil.rmtree(store.snapshots / expected.id, ignore_errors=True)
        write_json(store.latest_snapshot, {"snapshot": first})
        command = [sys.executable, "-c", KILLED, str(store.root), str(replacements), moment]
        killed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        latest = snapshot.open_latest(store)
        whole = {table: latest.relation(table).count("*").fetchone()[0] for table in PUBLISHED}
        assert set(whole.values()) == {40 if latest.id == expected.id else 25}
        assert publish(store).id == expected.id
        assert files(store, expected.id) == files(peaceful, expected.id)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        replacements += 1

    assert replacements > 2 * len(PUBLISHED)


def files(store: Store, snapshot_id: str) -> set[str]:
    opened = snapshot.open(snapshot_id, store)
    paths = {path for table in PUBLISHED for path in opened.files(table)}
    return {
        f"{path.relative_to(store.root)} {duckdb.read_parquet(str(path)).count('*').fetchone()}"
        for path in paths
    }


@pytest.mark.parametrize("column", ["t", "T", "dt", "row", "t_"])
def test_a_column_with_a_name_of_the_publication_is_published_and_changes_the_content(
    store, column
):
    ids = set()
    for value in ("1", "2"):
        build(store, 20, extra=f", {value} as price_cents, i as {column}")
        ids.add((published := publish(store)).id)

    assert 2 == len(ids)
    events = published.relation("events").project(f"{column}, price_cents").order(column)
    assert [(number, 2) for number in range(20)] == events.fetchall()


def test_features_may_have_the_names_that_a_comparison_uses():
    names = ["is_after", "is_after_", "bins", "bin", "count", "value", "number", "one", "v"]
    with duckdb.connect() as connection:
        for table, first in {"before": 0, "after": 100}.items():
            columns = ", ".join(f"range + {first} as {name}" for name in names)
            connection.execute(f"create table {table} as select {columns} from range(100)")

        rows = distribution.compare(connection, "before", "after")
        described = distribution.describe(connection, "after")

    assert set(names) == {row["column_name"] for row in rows if row["distance"] > 1}
    assert names == [row["column_name"] for row in described if row["bins"]]


@pytest.mark.parametrize("name", ["place", "PLACE", "place_", "file_row_number"])
def test_an_erasure_of_parquet_rows_keeps_the_others_whatever_a_column_is_called(tmp_path, name):
    path = tmp_path / "results.parquet"
    values = "(10, 10), (10, 11), (1, 1), (1, 2), (2, 3), (3, 4)"
    rows = duckdb.sql(f'from (values {values}) as t(person, "{name}")')
    rows.write_parquet(str(path))

    erase._rewrite(path, {1, 2})

    assert rows.fetchall()[2:] == duckdb.read_parquet(str(path)).fetchall()
