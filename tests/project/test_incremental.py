"""Whatever the order in which files come, the tables are those of one full build, row for row."""

import gzip
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from runs import JOLLYBOAT, run

from jollyboat.landing import landing
from jollyboat.store.store import Store, hash_text
from jollyboat.warehouse import warehouse

BUILD = """
from jollyboat.landing import landing
from jollyboat.warehouse import warehouse
from jollyboat.store.store import default_store
store = default_store()
with warehouse.locked(store) as lock:
    landed = landing.land(store, *warehouse.source_names())
    warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))
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
# What a build has changed, not what there is.
OF_ONE_BUILD = {
    *("int_told_events", "int_told_ids", "int_sessionized_events", "int_changes", "int_asked_events"),
    *("events_at_point", "features_at_point"),
}
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
        line.replace(b'"visitor":{"anonymous_id":null', b'"visitor":{"anonymous_id":"late"') for line in lines[:50]
    ]
    random.Random(7).shuffle(lines)
    last = max(path.name for path in store.glob("raw/web/*"))
    shutil.rmtree(store / "raw" / "web")
    for number in range(FILES):
        # Most under the last day, one under the first: a late file is one that comes in a late batch.
        path = store / "raw" / "web" / ("dt=2026-01-05" if number == 3 else last) / f"{number}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\n".join(lines[number::FILES]) + b"\n")
    return store


def build(project: Path, store: Path, code: str = BUILD) -> str:
    (store / ".salt").write_text("the same in all stores")
    said = run(project, store, "-c", code)
    assert said.returncode == 0, said.stdout
    return said.stdout


def land(logs: Path, store: Path, files: list[Path]) -> None:
    for file in files:
        target = store / file.relative_to(logs)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def tables(store: Path) -> dict[str, Counter]:
    """The rows of every table; a file is known by its name instead of the number that tells when it came."""
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        names = {name for (name,) in connection.sql("select table_name from information_schema.tables").fetchall()}
        found = {}
        for name in names - OF_ONE_BUILD - {"landed_files"}:
            columns = connection.table(name).columns
            given = [column for column in ("file_seq", "file") if column in columns]
            query = f"select * from {name}"
            if "file_seq" in columns:
                kept = f"t.* exclude ({', '.join(given)})"
                query = f"select {kept}, landed.file from {name} as t join landed_files as landed using (file_seq)"
            found[name] = Counter(connection.sql(query).fetchall())
        return found


def assert_same(expected: Path, found: Path) -> None:
    one, other = tables(expected), tables(found)
    assert one.keys() == other.keys()
    assert sum(one["session_features"].values()) > 300
    assert [] == [(name, one[name] - other[name], other[name] - one[name]) for name in one if one[name] != other[name]]


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


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(2, 5))])
def test_files_in_any_order_and_batches_give_the_rows_of_one_full_build(untouched, logs, whole, tmp_path, seed):
    moved = 0
    for batch in files_in_order(logs, seed):
        land(logs, tmp_path, batch)
        build(untouched, tmp_path)
        with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as connection:
            moved += connection.sql("select count(*) filter (where is_gone) from int_changes").fetchone()[0]

    assert_same(whole, tmp_path)
    assert moved > 0  # a batch changed what the ones before had left
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as connection:
        twice = "select file_seq, line_number from stg_web__events group by all having count(*) > 1"
        assert [] == connection.sql(twice).fetchall()


def test_a_corrected_file_and_a_removed_one_leave_nothing_behind(untouched, logs, whole, tmp_path):
    store, fresh = Path(shutil.copytree(whole, tmp_path / "store")), tmp_path / "fresh"
    corrected, removed = (next(store.glob(f"raw/web/*/{number}.jsonl")) for number in (1, 2))
    lines = corrected.read_bytes().splitlines()
    corrected.write_bytes(b"\n".join(lines[: len(lines) // 2]).replace(b'"type":"search"', b'"type":"sought"') + b"\n")
    removed.unlink()
    shutil.copytree(store / "raw", fresh / "raw")
    for each in (store, fresh):
        build(untouched, each)

    assert_same(fresh, store)


def test_nothing_new_builds_nothing_and_what_a_killed_run_landed_is_built_by_the_next(whole, tmp_path):
    store = Store(Path(shutil.copytree(whole, tmp_path / "store")))
    with warehouse.locked(store) as lock:
        assert warehouse.start_dbt(store, lock, landing.land(store, *warehouse.source_names())) is None
        for path in store.raw.glob("web/*/7.jsonl"):
            path.with_stem("8").write_bytes(path.read_bytes().replace(b'"id":"', b'"id":"other-'))
        landing.land(store, *warehouse.source_names())
        again = landing.land(store, *warehouse.source_names())
        assert again.new == []
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, again))

    with warehouse.connect(store) as connection:
        assert (0,) < connection.sql("select count(*) from events where file like '%/8.jsonl'").fetchone()


def test_a_log_in_decides_anew_who_is_behind_the_ids_that_it_joins_and_no_others(untouched, whole, tmp_path):
    store = Path(shutil.copytree(whole, tmp_path / "store"))
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        ids = "select id, person_id from int_identities where tenant_id = 'acme' and id_kind = '{}' order by {}"
        device, device_person = connection.sql(ids.format("anonymous", "first_seen_at, id")).fetchone()
        account, account_person = connection.sql(ids.format("user", "first_seen_at desc, id")).fetchone()
        of_both = f"tenant_id = 'acme' and person_id in ('{device_person}', '{account_person}')"
        expected = connection.sql(f"select id from int_identities where {of_both}").fetchall()
        count = connection.sql("select count(*) from int_identities").fetchone()[0]
    assert device_person != account_person
    line = {"event": {"id": "log-in", "type": "page_view", "ts": "2026-01-05T12:00:00Z"}, "shop": "acme"}
    line |= {"visitor": {"anonymous_id": device, "user_id": account}}
    (store / "raw/web/dt=2026-01-05/log-in.jsonl").write_text(json.dumps(line))
    build(untouched, store)

    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        told = connection.sql("select substr(key, 3) from int_told_ids").fetchall()
        joined = connection.sql(f"select id from int_identities where {of_both}").fetchall()
        persons = connection.sql(f"select distinct person_id from int_identities where {of_both}").fetchall()
        assert connection.sql("select count(*) from int_identities").fetchone()[0] == count
    assert sorted(told) == sorted(joined) == sorted(expected)
    assert persons == [(device_person,)]


def test_another_salt_hashes_all_anew_even_where_files_have_changed(tmp_path, monkeypatch):
    store = Store(tmp_path)
    for salt, ids in [("first", ["e1"]), ("second", ["e1"]), ("third", ["e1", "e2"])]:
        monkeypatch.setenv("PERSONAL_SALT", salt)
        event = {"event": {"type": "page_view", "ts": "2026-01-01"}, "shop": "a", "visitor": {"user_id": "ann@x.de"}}
        (store.raw / "web/dt=2026-01-01").mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(event | {"event": event["event"] | {"id": one}}) for one in ids]
        (store.raw / "web/dt=2026-01-01/a.jsonl").write_text("\n".join(lines))
        with warehouse.locked(store) as lock:
            landed = landing.land(store, *warehouse.source_names())
            warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))

        with duckdb.connect(str(store.warehouse), read_only=True) as connection:
            found = connection.sql("select user_id from events").fetchall()
        assert found == [(hash_text("ann@x.de", salt),)] * len(ids)


def small_worlds(count: int, batches: int, seed: int = 5) -> list[dict[str, list[dict]]]:
    """For each batch its lines, of tenants with a few devices, accounts and products that meet often each."""
    chance, found = random.Random(seed), [{"web": [], "orders": [], "predictions": []} for _ in range(batches)]
    for world in range(count):
        for number in range(chance.randrange(8, 20)):
            time = f"2026-01-01T{chance.randrange(8, 12):02}:{chance.randrange(0, 60, 5):02}:00Z"
            batch = chance.choice(found)
            if chance.random() < 0.25:
                order = {"shop_code": f"t{world}", "order_no": chance.randrange(4), "placed_at": time, "total": "9.5"}
                ids = {
                    "visitor_cookie": chance.choice(["a", "b", None]),
                    "customer_no": chance.choice(["u", "v", None]),
                }
                batch["orders"].append(order | ids)
                continue
            if chance.random() < 0.25:
                answer = {"tenant_id": f"t{world}", "request_id": f"r{chance.randrange(9)}", "answered_at": time}
                answer |= {"anonymous_id": chance.choice(["a", "b", None]), "user_id": chance.choice(["u", "v", None])}
                answer |= {"entity_id": chance.choice(["s", "none"]), "point_at": time, "probability": 0.5}
                batch["predictions"].append(answer)
                continue
            kind = chance.choice(["page_view", "purchase"])
            event = {"id": f"e{chance.randrange(number + 1)}", "type": kind, "ts": time}
            visitor = {
                "anonymous_id": chance.choice(["a", "b", "c", None]),
                "user_id": chance.choice(["u", "v", None, None]),
            }
            received = time.replace("01-01", f"01-0{chance.randrange(1, 5)}")
            line = {"event": event, "received": received, "shop": f"t{world}", "visitor": visitor}
            line |= {"session": {"id": chance.choice(["s", None, None, None])}, "product": {"id": chance.choice("pq")}}
            batch["web"].append(line | ({"order": {"id": str(chance.randrange(4))}} if kind == "purchase" else {}))
    return found


@pytest.mark.faults
def test_devices_accounts_and_orders_that_meet_in_any_order_give_the_rows_of_one_full_build(untouched, tmp_path):
    project, store, fresh = tmp_path / "project", tmp_path / "store", tmp_path / "fresh"
    shutil.copytree(untouched, project, symlinks=True)
    # So few that links of a small world are cut, and come together again.
    settings = project / "dbt" / "dbt_project.yml"
    caps = [("accounts_of_a_device: 5", "accounts_of_a_device: 1"), ("of_an_account: 100", "of_an_account: 2")]
    for cap, lower in caps:
        assert cap in settings.read_text()
        settings.write_text(settings.read_text().replace(cap, lower))
    for number, batch in enumerate(small_worlds(count=400, batches=4)):
        for source, lines in batch.items():
            path = store / "raw" / source / "dt=2026-01-05" / f"{number}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        build(project, store)
        with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
            moved = connection.sql("select count(*) filter (where is_gone) from int_changes").fetchone()[0]
    shutil.copytree(store / "raw", fresh / "raw")
    build(project, fresh)

    assert_same(fresh, store)
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        told = connection.sql("select count(*) from int_told_ids").fetchone()[0]
        known = connection.sql("select count(*) from int_identities").fetchone()[0]
    assert 0 < told < known
    assert moved > 100  # the last batch, too, changed what the ones before had left


@pytest.mark.faults
def test_days_one_by_one_give_the_rows_of_one_full_build(untouched, tmp_path):
    logs, store = tmp_path / "logs", tmp_path / "store"
    where = ["--raw", str(logs / "raw"), "--truth", str(logs / "truth.parquet")]
    assert (
        run(untouched, logs, *JOLLYBOAT, "simulate", "--days", "10", "--sessions-per-day", "60", *where).returncode == 0
    )
    days = sorted({path.parent.name for path in logs.glob("raw/*/*/*")})
    published = []
    for day in days:
        land(logs, store, sorted(logs.glob(f"raw/*/{day}/*")))
        said = build(untouched, store, PUBLISH if day in days[-2:] else BUILD)
        published += [json.loads(said.splitlines()[-1])] if day in days[-2:] else []
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
        changed = {file.partition("/")[0] for file in set(before[table]) ^ set(after[table])} - {"dt=unknown"}
        assert min(changed, default=days[-1]) > days[-5], table
