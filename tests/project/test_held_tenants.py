"""A tenant whose data fail is held back alone: everybody else's new rows are published."""

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import pytest
from runs import JOLLYBOAT, run

from jollyboat.audit import audit, held
from jollyboat.erasure import erase
from jollyboat.simulate.simulate import simulate
from jollyboat.snapshots import held_rows, snapshot
from jollyboat.store import Store
from jollyboat.warehouse import warehouse

DAYS, NEWEST = 10, "2026-01-10"
HEALTHY = ("shop01", "shop02", "shop03")
PRICES, SCHEMA, GONE, NO_IDS, DAMAGED, NO_TENANT = FAULTY = (
    *("prices", "schema", "gone", "no_ids", "damaged", "no_tenant"),
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """The raw records of one simulated shop, by source and day; the last day is one day later."""
    raw = tmp_path_factory.mktemp("simulated") / "raw"
    simulate(raw, None, seed=7, start=date(2026, 1, 1), days=DAYS + 1, sessions_per_day=40)
    return raw


def lines_of(simulated: Path, source: str, day: str, tenant: str) -> Iterator[str]:
    """The lines of the shop acme, which this tenant has, too."""
    (path,) = simulated.glob(f"{source}/dt={day}/*")
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    for line in text.decode().splitlines():
        if '"shop":"acme"' in line or ",acme," in line:
            yield line.replace('"acme"', f'"{tenant}"').replace(",acme,", f",{tenant},")


def write(simulated: Path, store: Store, days: range, *, broken: bool = False) -> None:
    """The records of every tenant, those with faults at the end of each file."""
    for number in days:
        for source, name in (("web", "events.jsonl"), ("orders", "orders.csv")):
            folder = f"{source}/dt=2026-01-{number:02}"
            (path,) = simulated.glob(f"{folder}/*")
            lines = [
                line
                for tenant in (*HEALTHY, *FAULTY)
                for line in lines_of(simulated, source, folder.partition("=")[2], tenant)
            ]
            if source == "orders":
                lines.insert(0, path.read_text().splitlines()[0])
            (store.raw / folder).mkdir(parents=True, exist_ok=True)
            (store.raw / folder / name).write_text("\n".join(lines) + "\n")
    if broken:
        path = store.raw / "web" / f"dt={NEWEST}" / "events.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(each) + "\n" for each in broken_records(lines)))
        path.with_name("no_tenant.jsonl").write_text('{"v": 2}\n' * 100)
        damaged = path.parent / "tenant=damaged" / "more.jsonl.gz"
        damaged.parent.mkdir()
        damaged.write_bytes(gzip.compress(b'{"shop":"damaged"}\n' * 1000)[:-9])


def broken_records(lines: list[dict]) -> Iterator[dict]:
    for record in lines:
        match record["shop"]:
            case "gone" | "no_tenant":
                continue
            case "schema":
                record["v2_event"] = record.pop("event")
            case "no_ids":
                record |= {"visitor": {}, "session": {}}
            case "prices":
                for copy in range(5):
                    event = record["event"] | {"id": f"{record['event']['id']}-{copy}"}
                    product = (record.get("product") or {}) | {"price": 5_000_000}
                    yield record | {"event": event, "product": product}
        yield record


def build(store: Store) -> None:
    store.root.mkdir(exist_ok=True)
    (store.root / ".salt").write_text("the same in all stores")
    with warehouse.locked(store) as lock:
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, warehouse.land(store)))


def publish(store: Store) -> snapshot.Snapshot:
    findings = audit.audit(store, snapshot.find_latest(store))
    reasons, stops = held.find_held(store, findings)
    assert stops == []
    return snapshot.publish(store, {"code": warehouse.code_fingerprint()}, "", {}, reasons)[0]


def copy(store: Store, folder: Path) -> Store:
    return Store(Path(shutil.copytree(store.root, folder / "data")))


@pytest.fixture(scope="module")
def before(simulated, tmp_path_factory) -> Store:
    """A store with a snapshot of all days but the newest."""
    store = Store(tmp_path_factory.mktemp("before") / "data")
    write(simulated, store, range(1, DAYS))
    build(store)
    publish(store)
    return store


@pytest.fixture(scope="module")
def good(simulated, before, tmp_path_factory) -> Store:
    """The store with its newest day, in which nobody has a fault."""
    store = copy(before, tmp_path_factory.mktemp("good"))
    write(simulated, store, range(DAYS, DAYS + 1))
    build(store)
    publish(store)
    return store


@pytest.fixture(scope="module")
def broken(simulated, before, tmp_path_factory) -> Store:
    """The store with its newest day, in which each tenant of FAULTY has its fault."""
    store = copy(before, tmp_path_factory.mktemp("broken"))
    write(simulated, store, range(DAYS, DAYS + 1), broken=True)
    build(store)
    publish(store)
    return store


def rows(one: snapshot.Snapshot, tenants: tuple[str, ...], but: tuple[str, ...] = ()) -> dict:
    """The rows of these tenants in every table that has tenants."""
    return {
        table: Counter(one.relation(table).filter(f"tenant_id in {(*tenants, '')}").fetchall())
        for table, content in one.manifest["tables"].items()
        if "tenant_id" in content["columns"] and table not in but
    }


def test_nobody_is_held_back_without_a_fault(before, good):
    assert [{}, {}] == [snapshot.open_latest(store).held for store in (before, good)]


def test_each_fault_holds_its_tenant_back_alone(broken):
    waiting = snapshot.open_latest(broken).held

    assert {*FAULTY} == waiting.keys()
    assert "prices of web are above 1,000,000" in waiting[PRICES]["reason"]
    assert "are quarantined, most for no_event_type" in waiting[SCHEMA]["reason"]
    assert "0 records of web came on 2026-01-10, usually" in waiting[GONE]["reason"]
    assert "anonymous_id missing in 100.0 %" in waiting[NO_IDS]["reason"]
    assert "more.jsonl.gz: damaged_gzip" in waiting[DAMAGED]["reason"]
    assert "100 of 100 records of web since 2026-01-10" in waiting[NO_TENANT]["reason"]
    assert {"2026-01-09"} == {each["until"] for each in waiting.values()}


def test_the_others_rows_are_those_of_a_run_without_the_fault(good, broken):
    expected, actual = map(snapshot.open_latest, (good, broken))

    assert rows(expected, HEALTHY) == rows(actual, HEALTHY)
    assert sum(rows(actual, HEALTHY)["session_features"].values()) > 500


def test_a_tenant_that_is_held_back_keeps_its_last_good_rows(before, broken):
    expected, actual = map(snapshot.open_latest, (before, broken))

    as_built = held_rows.AS_BUILT
    assert rows(expected, FAULTY, as_built) == rows(actual, FAULTY, as_built)


def test_every_record_that_waits_is_counted_as_held_back(broken):
    one = snapshot.open_latest(broken)
    account = one.relation("record_reconciliation")

    unbalanced = account.filter(
        "line_count - blank_count + further_count != event_count + duplicate_count "
        "+ quarantined_count + left_out_count + held_back_count or missing_count != 0"
    )
    by_file = "select file, count(*) from events group by file"
    published = dict(one.relation("events").query("events", by_file).fetchall())
    waiting = account.aggregate("sum(held_back_count)").fetchone()[0]

    assert [] == unbalanced.fetchall()
    events = account.filter("event_count > 0").project("file, event_count").fetchall()
    assert published == dict(events)
    assert waiting == sum(each["record_count"] for each in one.held.values()) > 500


def test_a_first_run_publishes_everybody_but_the_tenants_with_a_fault(good, broken, tmp_path):
    store = copy(broken, tmp_path)
    for path in (store.snapshots, store.tables):
        shutil.rmtree(path)
    store.latest_snapshot.unlink(missing_ok=True)

    one = publish(store)

    assert rows(snapshot.open_latest(good), HEALTHY) == rows(one, HEALTHY)
    assert not any(rows(one, FAULTY, held_rows.AS_BUILT).values())
    assert {None} == {each["until"] for each in one.held.values()}


def test_a_tenant_is_released_when_its_data_are_correct_or_accepted(simulated, broken, tmp_path):
    """The tenant that has gone sends nothing on the next day either."""
    store = copy(broken, tmp_path)
    since = json.loads((store.snapshots / snapshot.latest_id(store) / "manifest.json").read_text())
    accepted = warehouse.accept_days(store, GONE)
    shutil.rmtree(store.raw / "web" / f"dt={NEWEST}")
    write(simulated, store, range(DAYS, DAYS + 2))
    for day in (NEWEST, "2026-01-11"):
        path = store.raw / "web" / f"dt={day}" / "events.jsonl"
        kept = [line for line in path.read_text().splitlines() if '"shop":"gone"' not in line]
        path.write_text("\n".join(kept) + "\n")
    build(store)

    one = publish(store)

    assert [f"web/dt={NEWEST} of gone"] == accepted
    assert {} == one.held and {*FAULTY} == since["held"].keys()
    counts = dict(one.relation("events").aggregate("tenant_id, count(*)").fetchall())
    assert counts[HEALTHY[0]] == counts[SCHEMA] == counts[PRICES] == counts[DAMAGED]
    assert counts[GONE] < counts[SCHEMA]


def test_a_tenant_stays_held_back_since_the_first_run_that_held_it(broken, tmp_path):
    store = copy(broken, tmp_path)
    path = store.snapshots / snapshot.latest_id(store) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["held"][GONE]["since"] = "2026-01-11"
    path.write_text(json.dumps(manifest))

    assert "2026-01-11" == publish(store).held[GONE]["since"]


def test_features_that_other_sql_computed_are_left_out(broken, tmp_path):
    store = copy(broken, tmp_path)
    path = store.snapshots / snapshot.latest_id(store) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "other"}))

    one = publish(store)

    assert not rows(one, FAULTY)["session_features"] and rows(one, FAULTY)["sessions"]
    assert rows(one, HEALTHY)["session_features"]
    assert held_rows.LEFT_OUT in one.held[GONE]["reason"]


def test_the_run_names_the_tenants_first_and_says_what_releases_them(untouched, broken, tmp_path):
    store = copy(broken, tmp_path)

    result = run(untouched, store.root, "flows/data.py", "run")
    shown = run(untouched, store.root, *JOLLYBOAT, "snapshots", "show").stdout

    assert result.returncode == 0, result.stdout
    text = " ".join(result.stdout.split())
    assert text.index("held back: damaged") < text.index("held back: gone") < text.index("source ")
    assert "`jollyboat land --accept --tenant gone`" in text
    assert "held back: gone" in shown
    page = (store.reports / "data.html").read_text()
    assert page.index("Held back: damaged") < page.index("is published")


@pytest.mark.faults
def test_an_erasure_is_not_stopped_and_keeps_the_rows_of_tenants_that_it_is_not_about(
    broken, tmp_path
):
    store = copy(broken, tmp_path)
    others = tuple(
        {*FAULTY} - {DAMAGED}
    )  # a file that cannot be read may be about anybody: it goes
    expected = rows(snapshot.open_latest(store), others)

    erase.erase(store, HEALTHY[0], None)

    one = snapshot.open_latest(store)
    assert {*others} == one.held.keys() and not any(rows(one, HEALTHY[:1]).values())
    assert expected["sessions"] == rows(one, others)["sessions"]


@pytest.mark.faults
@pytest.mark.parametrize("folders", ["right", "ahead"])
def test_a_clock_a_year_ahead_of_most_events_changes_nothing_of_the_others(
    simulated, before, tmp_path, folders
):
    """The tenant has 60 % of all events; its folders may be a year ahead, too."""
    expected = rows(snapshot.open_latest(before), (*HEALTHY, *FAULTY))
    store = copy(before, tmp_path)
    for day in range(1, DAYS):
        lines = [
            line.replace('"id":"s', f'"id":"s{number}').replace('"id":"e', f'"id":"e{number}')
            for line in lines_of(simulated, "web", f"2026-01-{day:02}", "ahead")
            for number in range(14)
        ]
        year = 2026 if folders == "right" else 2027
        path = store.raw / "web" / f"dt={year}-01-{day:02}" / "ahead.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines).replace("2026-", "2027-") + "\n")
    build(store)

    one = publish(store)

    assert expected == rows(one, (*HEALTHY, *FAULTY))
    assert (folders == "right") == ("ahead" in one.held)


CASES = {
    "no record while the others send": ([100] * 20 + [0], True),
    "a tenth of the least usual day": ([100] * 20 + [9], True),
    "a fifth of a usual day": ([100] * 20 + [20], False),
    "a small tenant": ([20] * 20 + [0], False),
    "closed on Sundays": (([100] * 6 + [0]) * 3, False),
    "silent since two days": ([100] * 19 + [0, 0], True),
    "back again": ([100] * 19 + [0, 30], False),
    "a tenant that starts midway": ([None] * 16 + [100] * 4 + [0], False),
    "one busy day": ([60] * 13 + [5000] + [60] * 6 + [50], False),
    "an earlier day without records": ([100] * 6 + [0] + [100] * 14, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tenant_collapses_on_its_newest_complete_day_alone(before, tmp_path, name):
    counts, expected = CASES[name]
    others = {"other": [500] * len(counts), "another": [400] * len(counts)}

    assert expected == ("tenant" in collapsed(before, tmp_path, {"tenant": counts, **others}))


def test_a_day_that_has_just_begun_days_to_come_and_late_records_say_nothing(before, tmp_path):
    begun = {"tenant": [100] * 20 + [0], "other": [500] * 20 + [40], "another": [400] * 20 + [9]}
    to_come = {"tenant": [100] * 20, "other": [500] * 20, "ahead": [None] * 400 + [900] * 10}
    late = {"tenant": [100] * 20 + [2, 0, 1], "other": [500] * 20 + [0, 3, 0]}

    assert set() == collapsed(before, tmp_path / "begun", begun)
    assert set() == collapsed(before, tmp_path / "to_come", to_come)
    assert set() == collapsed(before, tmp_path / "late", late)


def collapsed(before: Store, folder: Path, counts: dict[str, list[int | None]]) -> set[str]:
    """The tenants that the model tenant_days finds; the first day is a Monday."""
    folder.mkdir(exist_ok=True)
    today = date.today().toordinal()
    first = today - 20 - date.fromordinal(today - 20).weekday()
    days = [
        (tenant, date.fromordinal(first + day), count)
        for tenant, each in counts.items()
        for day, count in enumerate(each)
        if count
    ]
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        connection.execute("create table d (tenant_id varchar, arrived_on date, count int)")
        connection.executemany("insert into d values (?, ?, ?)", days)
        connection.execute(
            "create table int_records as select tenant_id, 'web' as source, arrived_on, "
            "null::varchar as reason from d cross join range(5000) as n (i) where i < d.count; "
            "create table quarantined_events as select * from int_records where false"
        )
        sql = warehouse.compiled(before, "tenant_days")
        tenants = connection.sql(f"select distinct tenant_id from ({sql}) where is_collapsed")
        return {tenant for (tenant,) in tenants.fetchall()}
