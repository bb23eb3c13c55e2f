"""Tables built in shards equal those of one build, and a shard that fails alone publishes nothing."""

import gzip
import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import duckdb
import pytest
from runs import JOLLYBOAT, copy_project, refusal, run

from jollyboat.audit import audit, held
from jollyboat.simulate.simulate import simulate
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, UserError
from jollyboat.warehouse import shards, warehouse

pytestmark = pytest.mark.cluster

DAYS, COUNT = 8, 3
NEWEST, LATE = f"2026-01-{DAYS:02}", "2026-01-03"
SHOPS = ("acme", "bolt", "cora", "held")


def build(store: Store) -> None:
    with warehouse.locked(store) as lock:
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, warehouse.land(store)))


def build_in_shards(store: Store) -> list[shards.Shard]:
    """The build of each task, two at a time; the warehouse is then that of the joined tables."""
    with warehouse.locked(store):
        plan = shards.plan(store, warehouse.land(store), COUNT)
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda number: shards.stage(store, plan, number), range(COUNT)))
        dealt = shards.deal(counts, COUNT)
        list(pool.map(lambda shard: shards.build_events(store, plan, shard), dealt))
        shards.build_data_end(store, plan, dealt)
        list(pool.map(lambda shard: shards.build_tables(store, plan, shard), dealt))
    with warehouse.locked(store) as lock:
        warehouse.finish_dbt(store, shards.join(store, plan, dealt, lock))
    return dealt


def publish(store: Store) -> snapshot.Snapshot:
    findings = audit.audit(store, snapshot.find_latest(store))
    reasons, stops = held.find_held(store, findings)
    assert stops == []
    sql, facts = warehouse.feature_sql(store), {"code": warehouse.code_fingerprint()}
    return snapshot.publish(store, facts, sql, {}, reasons)[0]


def tables(store: Store) -> dict[str, Counter]:
    """The rows of every table and view of the warehouse but the catalog, which has folders' names."""
    with warehouse.connect(store) as connection:
        query = "select table_name from information_schema.tables"
        names = [name for (name,) in connection.sql(query).fetchall()]
        return {
            name: Counter(map(repr, connection.table(name).fetchall()))
            for name in names
            if name != "landed_files"
        }


def write_hostile(store: Store) -> None:
    """Shops that differ by size, in portions of several files; the newest day is not yet here."""
    raw = store.root / "simulated"
    simulate(raw, None, seed=7, start=date(2026, 1, 1), days=DAYS, sessions_per_day=60)
    for source, name in (("web", "events.jsonl"), ("orders", "orders.csv")):
        for number in range(1, DAYS + 1):
            (path,) = raw.glob(f"{source}/dt=2026-01-{number:02}/*")
            content = path.read_bytes()
            lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
            heading, *rows = lines.splitlines()
            own = [row for row in (heading, *rows) if '"shop":"acme"' in row or ",acme," in row]
            written = [heading] if source == "orders" else []
            for place, shop in enumerate(SHOPS):
                written += [
                    row.replace('"acme"', f'"{shop}"').replace(",acme,", f",{shop},")
                    for row in own[place * 7 :]  # the same visitors, sessions and ids in each
                ]
            target = store.raw / source / f"dt=2026-01-{number:02}" / name
            target.parent.mkdir(parents=True)
            target.write_text("\n".join(written) + "\n")
    shutil.rmtree(raw)


def web(shop: str | None, number: int, ts: str | None, **parts: object) -> str:
    event = {"id": f"odd-{number}", "type": "page_view", "ts": ts}
    return json.dumps({"event": event, "shop": shop, "received": f"{NEWEST}T23:00:00Z"} | parts)


def add_faults(store: Store) -> None:
    """What is wrong on the newest day: nulls, ties, late files, a file cut short, absurd prices."""
    noon = f"{NEWEST}T12:00:00Z"
    visitor = {"anonymous_id": "tablet", "user_id": "one person"}
    lines = [
        *(web(shop, n, noon, visitor=visitor) for shop in SHOPS for n in (1, 1, 2, 3)),
        *(web(shop, n, noon, session={"id": "one"}) for shop in SHOPS for n in (4, 5, 6)),
        *(web("bolt", n, f"{LATE}T10:00:00Z", visitor=visitor) for n in range(7, 12)),
        web(None, 20, noon, visitor=visitor),
        web("bad tenant@", 21, noon),
        web("acme", 22, None),
        web("new", 23, noon, session={"id": "one"}),
        web("acme", 24, f"{NEWEST}T25:99:00Z"),
        *("{", "", "not json", '["a list"]', "null"),
    ]
    for number in range(30, 90):
        product = {"id": "p1", "price": 5_000_000, "quantity": 1}
        lines.append(web("held", number, noon, product=product, visitor=visitor))
    folder = store.raw / "web" / f"dt={NEWEST}"
    (folder / "odd.jsonl").write_text("\n".join(lines) + "\n")
    damaged = folder / "tenant=held" / "cut.jsonl.gz"
    damaged.parent.mkdir()
    damaged.write_bytes(gzip.compress(b'{"shop":"held"}\n' * 999)[:-9])
    (store.raw / "web" / f"dt={LATE}" / "late.jsonl").write_text(
        "\n".join(web(shop, 90, f"{LATE}T09:00:00Z", visitor=visitor) for shop in SHOPS)
    )
    answer = {"request_id": "r1", "tenant_id": "cora", "answered_at": noon, "entity_id": "one"}
    answer |= {"point_at": noon, "event_count": 2, "probability": 0.5, "user_id": "one person"}
    (store.raw / "predictions" / f"dt={NEWEST}").mkdir(parents=True)
    (store.raw / "predictions" / f"dt={NEWEST}" / "log.jsonl").write_text(json.dumps(answer))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Store, Store, list[shards.Shard]]:
    """A store that was built at once, and one in shards, on a snapshot of the days before."""
    whole, cut = (Store(tmp_path_factory.mktemp(name)) for name in ("whole", "cut"))
    whole.salt.write_text("the same in all stores")
    write_hostile(whole)
    newest = [(path, path.read_bytes()) for path in whole.raw.glob(f"*/dt={NEWEST}/*")]
    for path, _ in newest:
        path.unlink()
    build(whole)
    publish(whole)
    for path, content in newest:
        path.write_bytes(content)
    add_faults(whole)
    cut = Store(Path(shutil.copytree(whole.root, cut.root / "data")))
    build(whole)
    return whole, cut, build_in_shards(cut)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> tuple[Store, Store, list[shards.Shard]]:
    """Stores of the three simulated shops."""
    whole = Store(tmp_path_factory.mktemp("whole") / "data")
    simulate(whole.raw, None, seed=7, start=date(2026, 1, 1), days=DAYS, sessions_per_day=100)
    whole.salt.write_text("the same in all stores")
    cut = Store(Path(shutil.copytree(whole.root, tmp_path_factory.mktemp("cut") / "data")))
    build(whole)
    return whole, cut, build_in_shards(cut)


@pytest.mark.parametrize("logs", ["simulated", "hostile"])
def test_tables_built_in_three_shards_are_those_of_one_build(logs, request):
    whole, cut, dealt = request.getfixturevalue(logs)

    expected, actual = tables(whole), tables(cut)
    assert len(dealt) == COUNT
    assert all(shard.tenants and shard.event_count for shard in dealt)
    assert expected.keys() == actual.keys()
    assert [] == [name for name in expected if expected[name] != actual[name]]
    assert publish(whole).manifest["tables"] == publish(cut).manifest["tables"]
    assert snapshot.latest_id(whole) == snapshot.latest_id(cut)


def test_each_simulated_tenant_has_a_shard_of_its_own(simulated):
    _, cut, dealt = simulated

    (plan,) = cut.shards.iterdir()
    for shard in dealt:
        events = duckdb.read_parquet(str(plan / f"events-{shard.number}" / "events.parquet"))
        assert shard.tenants == [row[0] for row in events.unique("tenant_id").fetchall()]


def test_the_hostile_logs_are_hostile(hostile):
    whole, _, _ = hostile
    built = tables(whole)
    last = snapshot.open_latest(whole)

    assert {"held"} == set(last.held)
    assert all(built[name] for name in ("duplicate_events", "fct_predictions", "missing_ids"))
    with warehouse.connect(whole) as connection:
        reasons = connection.sql("select distinct reason from quarantined_events").fetchall()
        shared = connection.sql(
            "select count(distinct tenant_id) from int_identities where id = 'one person'"
        ).fetchone()
    assert shared == (len(SHOPS),)
    assert len(reasons) >= 6


def test_a_run_that_another_one_overtakes_publishes_nothing(hostile, tmp_path):
    store = Store(Path(shutil.copytree(hostile[1].root, tmp_path / "data", symlinks=True)))
    before = snapshot.latest_id(store)
    with warehouse.locked(store):
        plan = shards.plan(store, warehouse.land(store), COUNT)
    (store.raw / "web" / f"dt={NEWEST}" / "more.jsonl").write_text("{}\n")
    warehouse.land(store)

    with (
        pytest.raises(UserError, match="Another data run has landed"),
        warehouse.locked(store) as lock,
    ):
        shards.join(store, plan, hostile[2], lock)
    assert before == snapshot.latest_id(store)


@pytest.fixture(scope="module")
def shop(project, tmp_path_factory) -> Path:
    """A generated project with three shards."""
    own = copy_project(project, tmp_path_factory.mktemp("shop") / "shop")
    settings = own / "project.toml"
    text = settings.read_text()
    settings.write_text(text.replace("[serve]", "[cluster]\ndata_shards = 3\n\n[serve]", 1))
    return own


def test_a_shard_that_fails_alone_ends_the_run_in_a_sentence_and_is_built_by_the_next(
    shop, simulated, tmp_path
):
    store = Store(Path(shutil.copytree(simulated[1].root, tmp_path / "data", symlinks=True)))
    latest = publish(store)
    (plan,) = store.shards.iterdir()
    shutil.rmtree(plan / "tables-2")
    (plan / "events-2" / "events.parquet").write_bytes(b"half of a file")
    others = (plan / "events-1" / "built.json", plan / "tables-1" / "built.json")
    before = [path.stat().st_mtime_ns for path in others]

    failed = run(shop, store.root, "flows/data_shards.py", "run")
    assert "events.parquet" in refusal(failed) and "Nothing was published" in refusal(failed)
    assert latest.id == snapshot.latest_id(store)

    shutil.rmtree(plan / "events-2")
    again = run(shop, store.root, "flows/data_shards.py", "run")
    assert again.returncode == 0, again.stdout
    assert latest.manifest["tables"] == snapshot.open_latest(store).manifest["tables"]
    assert before == [path.stat().st_mtime_ns for path in others]


def test_a_project_with_more_questions_publishes_the_same_snapshot_from_shards(shop, tmp_path):
    own, stores = copy_project(shop, tmp_path / "own"), [tmp_path / "whole", tmp_path / "cut"]
    for name in ("churn", "next_product"):
        added = run(own, stores[0], *JOLLYBOAT, "add", "question", name)
        assert added.returncode == 0, added.stdout
    for store, flow in zip(stores, ("data", "data_shards"), strict=True):
        raw = Store(store).raw
        simulate(raw, None, seed=7, start=date(2026, 1, 1), days=40, sessions_per_day=30)
        Store(store).salt.write_text("the same in all stores")
        result = run(own, store, f"flows/{flow}.py", "run")
        assert result.returncode == 0, result.stdout

    whole, cut = (snapshot.open_latest(Store(store)) for store in stores)
    assert whole.manifest["questions"].keys() == {"churn", "next_product"}
    assert whole.id == cut.id
