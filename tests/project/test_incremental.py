"""Whatever the order in which files come, the tables are those of one build of all; no raw line is read twice."""

import gzip
import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from runs import JOLLYBOAT, run

from jollyboat.landing import landing
from jollyboat.store import Store, hash_text
from jollyboat.warehouse import warehouse

BUILD = """
from jollyboat.warehouse import warehouse
from jollyboat.store import default_store
store = default_store()
with warehouse.locked(store) as lock:
    warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, warehouse.land(store)))
"""
PUBLISH = (
    BUILD
    + """
import json
from jollyboat.snapshots import snapshot
published, _ = snapshot.publish(store, {}, "", {})
tables = published.manifest["tables"].items()
print(json.dumps({name: [each["file"] for each in table["files"]] for name, table in tables}))
"""
)
DAYS, SESSIONS_PER_DAY, FILES = 6, 60, 8


@pytest.fixture(scope="module")
def logs(untouched: Path, tmp_path_factory) -> Path:
    """Simulated logs, the browsers' lines of all days dealt out to files at random: none holds a whole session."""
    store = tmp_path_factory.mktemp("logs")
    where = ["--raw", str(store / "raw"), "--truth", str(store / "truth.parquet")]
    size = ["--days", str(DAYS), "--sessions-per-day", str(SESSIONS_PER_DAY)]
    assert run(untouched, store, *JOLLYBOAT, "simulate", *size, *where).returncode == 0
    days = [gzip.decompress(path.read_bytes()) for path in sorted(store.glob("raw/web/*/*"))]
    lines = b"".join(days).splitlines()
    lines += [
        line.replace(b'"visitor":{"anonymous_id":null', b'"visitor":{"anonymous_id":"late"')
        for line in lines[:50]
    ]
    random.Random(7).shuffle(lines)
    last = max(path.name for path in store.glob("raw/web/*"))
    shutil.rmtree(store / "raw" / "web")
    for number in range(FILES):
        # Most under the last day, one under the first: a late file is one that comes in a late batch.
        path = (
            store / "raw" / "web" / ("dt=2026-01-05" if number == 3 else last) / f"{number}.jsonl"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(lines[number::FILES]) + b"\n")
    return store


def build(project: Path, store: Path, code: str = BUILD) -> str:
    (store / ".salt").write_text("the same in all stores")
    result = run(project, store, "-c", code)
    assert result.returncode == 0, result.stdout
    return result.stdout


def land(logs: Path, store: Path, files: list[Path]) -> None:
    for file in files:
        target = store / file.relative_to(logs)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def tables(store: Path) -> dict[str, Counter]:
    """The rows of every table; a file is known by its name instead of the number that tells when it came."""
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        names = {
            name
            for (name,) in connection.sql(
                "select table_name from information_schema.tables"
            ).fetchall()
        }
        actual = {}
        for name in names - {"landed_files"}:
            columns = connection.table(name).columns
            given = [column for column in ("file_seq", "file") if column in columns]
            query = f"select * from {name}"
            if "file_seq" in columns:
                kept = f"t.* exclude ({', '.join(given)})"
                query = f"select {kept}, landed.file from {name} as t join landed_files as landed using (file_seq)"
            actual[name] = Counter(connection.sql(query).fetchall())
        return actual


def assert_same(expected: Path, actual: Path) -> None:
    one, other = tables(expected), tables(actual)
    assert one.keys() == other.keys()
    assert sum(one["session_features"].values()) > 300
    assert [] == [
        (name, one[name] - other[name], other[name] - one[name])
        for name in one
        if one[name] != other[name]
    ]


def files_in_order(logs: Path, seed: int) -> list[list[Path]]:
    """The files in an order and in batches of their own for each seed."""
    files = sorted(path for path in logs.glob("raw/*/*/*"))
    chance = random.Random(seed)
    chance.shuffle(files)
    cuts = sorted(chance.sample(range(1, len(files)), 1 if seed == 1 else 3))
    return [files[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]


@pytest.fixture(scope="module")
def whole(untouched: Path, logs: Path, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("whole")
    land(logs, store, sorted(logs.glob("raw/*/*/*")))
    build(untouched, store)
    return store


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.faults)])
def test_files_in_any_order_and_batches_give_the_rows_of_one_build(
    untouched, logs, whole, tmp_path, seed
):
    for batch in files_in_order(logs, seed):
        land(logs, tmp_path, batch)
        build(untouched, tmp_path)

    assert_same(whole, tmp_path)
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as connection:
        twice = "select file_seq, line_number from stg_web__events group by all having count(*) > 1"
        assert [] == connection.sql(twice).fetchall()


@pytest.mark.faults
def test_a_corrected_file_and_a_removed_one_leave_nothing_behind(untouched, logs, whole, tmp_path):
    store, fresh = Path(shutil.copytree(whole, tmp_path / "store")), tmp_path / "fresh"
    corrected, removed = (next(store.glob(f"raw/web/*/{number}.jsonl")) for number in (1, 2))
    lines = corrected.read_bytes().splitlines()
    corrected.write_bytes(
        b"\n".join(lines[: len(lines) // 2]).replace(b'"type":"search"', b'"type":"sought"') + b"\n"
    )
    removed.unlink()
    shutil.copytree(store / "raw", fresh / "raw")
    for each in (store, fresh):
        build(untouched, each)

    assert_same(fresh, store)


def rebuild(store: Store) -> None:
    """Land and build in this process."""
    with warehouse.locked(store) as lock:
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, warehouse.land(store)))


def dbt_by_hand(project: Path, store: Store, *command: str, code: int = 0) -> str:
    """What a person types, who does not know about the lock; the folder is relative."""
    root = Path(os.path.relpath(store.root, project))
    for command_of_ours in ("link", "land"):
        result = run(project, root, *JOLLYBOAT, command_of_ours)
        assert result.returncode == 0, result.stdout
    dbt = run(
        project,
        root,
        "-m",
        "dbt.cli.main",
        *command,
        "--project-dir",
        "dbt",
        "--profiles-dir",
        ".",
    )
    assert dbt.returncode == code, dbt.stdout
    return dbt.stdout


def staged_files(store: Store) -> dict[str, int]:
    """The staged files, each with the number that the file system gave it when it was written."""
    return {path.name: path.stat().st_ino for path in store.staged.iterdir()}


def test_nothing_new_builds_nothing_and_the_next_run_builds_what_a_killed_one_landed(
    whole, tmp_path
):
    store = Store(Path(shutil.copytree(whole, tmp_path / "store")))
    rebuild(store)  # in its new place
    with warehouse.locked(store) as lock:
        assert warehouse.start_dbt(store, lock, warehouse.land(store)).process is None
        for path in store.raw.glob("web/*/7.jsonl"):
            path.with_stem("8").write_bytes(path.read_bytes().replace(b'"id":"', b'"id":"other-'))
        warehouse.land(store)
        again = warehouse.land(store)
        assert again.new == []
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, again))

    with warehouse.connect(store) as connection:
        assert (0,) < connection.sql(
            "select count(*) from events where file like '%/8.jsonl'"
        ).fetchone()


@pytest.mark.faults
def test_without_the_warehouse_no_raw_line_is_read_again(whole, tmp_path):
    store = Store(Path(shutil.copytree(whole, tmp_path / "store")))
    before = staged_files(store)
    store.warehouse.unlink()
    for path in store.raw.glob("*/*/*"):  # to the landing's eye as they were
        status = path.stat()
        path.write_bytes(b" " * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    rebuild(store)

    assert_same(whole, store.root)
    assert staged_files(store) == before


@pytest.mark.faults
def test_a_file_that_went_and_came_back_has_its_rows_once(untouched, whole, tmp_path):
    store = Store(Path(shutil.copytree(whole, tmp_path / "store")))
    path = next(store.raw.glob("web/*/7.jsonl"))
    content = path.read_bytes()
    path.unlink()
    dbt_by_hand(untouched, store, "run")
    with warehouse.connect(store) as connection:
        assert (0,) == connection.sql(
            "select count(*) from int_records where file like '%/7.jsonl'"
        ).fetchone()
    path.write_bytes(content)
    dbt_by_hand(untouched, store, "run")

    assert_same(whole, store.root)


@pytest.mark.faults
def test_events_built_alone_and_twice_by_hand_have_the_rows_of_a_whole_build(
    untouched, whole, tmp_path
):
    store = Store(Path(shutil.copytree(whole, tmp_path / "store")))
    for models in (["events"], ["events", "stg_web__events", "session_features"]):
        dbt_by_hand(untouched, store, "run", "--select", *models)

    assert_same(whole, store.root)


def test_a_build_by_hand_without_prediction_points_is_refused_before_any_model(
    untouched, whole, tmp_path
):
    store = Store(Path(shutil.copytree(whole, tmp_path / "store")))
    printed = dbt_by_hand(untouched, store, "run", "--vars", "prediction_points: []", code=2)

    assert "vars: prediction_points is []; it should be a list of at least one" in printed
    assert "1 of" not in printed


@pytest.mark.faults
def test_a_build_killed_while_staging_goes_on_from_the_portions_that_it_has(logs, whole, tmp_path):
    store = Store(tmp_path)
    land(logs, tmp_path, sorted(logs.glob("raw/*/*/*")))
    store.salt.write_text("the same in all stores")
    with warehouse.locked(store) as lock:
        landed = landing.land(store, *warehouse.source_names(), lines_at_once=300)
        killed = warehouse.start_dbt(store, lock, landed)
        while len(list(store.staged.glob("web-*"))) < 3:
            assert killed.process.poll() is None
            time.sleep(0.001)
        killed.process.kill()
        killed.process.wait()
        (store.staged / "tmp_killed.parquet").write_bytes(b"half a file")
        before = {
            name: at for name, at in staged_files(store).items() if not name.startswith("tmp_")
        }
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))

    after = staged_files(store)
    assert_same(whole, store.root)
    assert len(after) > len(before) > 2
    assert before.items() <= after.items()
    assert not any(name.startswith("tmp_") for name in after)


@pytest.mark.faults
def test_another_salt_reads_all_again_and_the_way_back_to_the_last_one_reads_nothing(
    tmp_path, monkeypatch
):
    store, staged = Store(tmp_path), {}
    (store.raw / "web/dt=2026-01-01").mkdir(parents=True)
    event = {"event": {"id": "e1", "type": "page_view", "ts": "2026-01-01"}, "shop": "a"}
    line = json.dumps(event | {"visitor": {"user_id": "ann@x.de"}})
    (store.raw / "web/dt=2026-01-01/a.jsonl").write_text(line)
    for salt in ("first", "second", "first", "third"):
        monkeypatch.setenv("PERSONAL_SALT", salt)
        before = staged_files(store) if store.staged.exists() else {}
        rebuild(store)

        with warehouse.connect(store) as connection:
            assert connection.sql("select user_id from events").fetchall() == [
                (hash_text("ann@x.de", salt),)
            ]
        new = staged_files(store).keys() - before.keys()
        assert bool(new) == (salt not in staged)
        staged.setdefault(salt, new)

    assert staged_files(store).keys() == staged["first"] | staged["third"]


@pytest.mark.faults
def test_days_one_by_one_give_the_rows_of_one_build(untouched, tmp_path):
    logs, store = tmp_path / "logs", tmp_path / "store"
    where = ["--raw", str(logs / "raw"), "--truth", str(logs / "truth.parquet")]
    assert (
        run(
            untouched,
            logs,
            *JOLLYBOAT,
            "simulate",
            "--days",
            "7",
            "--sessions-per-day",
            "60",
            *where,
        ).returncode
        == 0
    )
    days = sorted({path.parent.name for path in logs.glob("raw/*/*/*")})
    published = []
    for day in days:
        land(logs, store, sorted(logs.glob(f"raw/*/{day}/*")))
        result = build(untouched, store, PUBLISH if day in days[-2:] else BUILD)
        published += [json.loads(result.splitlines()[-1])] if day in days[-2:] else []
    whole = tmp_path / "whole"
    land(logs, whole, sorted(logs.glob("raw/*/*/*")))
    build(untouched, whole)

    assert_same(whole, store)
    # Files of days that the last one does not touch keep their names; lookups' intervals that go on are one file.
    before, after = published
    for table in (
        "events",
        "session_features",
        "quarantined_events",
        "duplicate_events",
        "lookup_product",
        "lookup_visitor",
    ):
        changed = {file.partition("/")[0] for file in set(before[table]) ^ set(after[table])} - {
            "dt=unknown"
        }
        assert min(changed, default=days[-1]) > days[-5], table
