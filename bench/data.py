"""Raw lines to a published snapshot, beside a bare DuckDB script; one more day; the audit; bytes on disk. One table.

build/demo/.venv/bin/python bench/data.py [100000 1000000 10000000] [--rounds 3] [--days 365]

The bare script does the same on two threads without audit, account, persons, staged files or publishing: it reads,
parses and dedupes the lines, makes sessions, computes the project's own features by their SQL, and writes Parquet.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from measure import PROJECT, measure, simulate

LINES_PER_SESSION, DAYS = 8.8, 30
AUDITED_EVENTS = 5_000_000

# {emptied}: a group of which the columns leave nothing; {raw}: the folder of raw files; {out}: where Parquet goes;
# {sql[...]}: the project's own compiled models.
EMPTIED = r'"(?:event|visitor|session|page|device|search|order)":\{\}'
BARE = """
set threads = 2; set TimeZone = 'UTC'; set memory_limit = '5GB'; set temp_directory = '{out}/spilled';
set preserve_insertion_order = false;
attach ':memory:' as warehouse; use warehouse;
create table read as
with web as (
    select line, json_transform(line, '{{
        "event": {{"id": "VARCHAR", "type": "VARCHAR", "ts": "VARCHAR"}}, "received": "VARCHAR", "shop": "VARCHAR",
        "visitor": {{"anonymous_id": "VARCHAR", "user_id": "VARCHAR"}}, "session": {{"id": "VARCHAR"}},
        "context": {{
            "page": {{"name": "VARCHAR", "url": "VARCHAR", "referrer": "VARCHAR"}}, "device": {{"type": "VARCHAR"}},
            "channel": "VARCHAR", "utm_medium": "VARCHAR", "country": "VARCHAR"
        }},
        "product": {{
            "id": "VARCHAR", "price": "DECIMAL(18, 4)", "quantity": "INTEGER", "currency": "VARCHAR",
            "category": "VARCHAR"
        }},
        "search": {{"query": "VARCHAR"}}, "order": {{"id": "VARCHAR"}}
    }}') as web, regexp_replace(cast(json_merge_patch(line, '{{
        "received": null, "shop": null, "event": {{"id": null, "type": null, "ts": null}},
        "visitor": {{"anonymous_id": null, "user_id": null}}, "session": {{"id": null}},
        "context": {{
            "page": {{"name": null, "url": null, "referrer": null}}, "device": {{"type": null}},
            "channel": null, "utm_medium": null, "country": null, "ip": null
        }},
        "product": {{"id": null, "price": null, "quantity": null, "currency": null, "category": null}},
        "search": {{"query": null}}, "order": {{"id": null}}
    }}') as varchar), ',{emptied}|{emptied},', '', 'g') as payload
    from (
        select case when json_valid(line) then line end as line
        from read_csv('{raw}/web/*/*', columns = {{'line': 'VARCHAR'}}, delim = e'\\x1f', quote = '', escape = '',
            header = false, auto_detect = false, strict_mode = false, new_line = '\\n', max_line_size = 8000000)
    )
)
select 'web' as source, null::bigint as sequence, '' as file, web.shop as tenant_id, coalesce(web.event.id, md5(line)) as event_id,
    web.event.type as event_type,
    cast(cast(web.event.ts as timestamptz) as timestamp) as occurred_at,
    cast(cast(web.received as timestamptz) as timestamp) as received_at,
    web.visitor.anonymous_id, web.visitor.user_id, web.session.id as emitter_session_id, web."order".id as order_id,
    web.product.id as product_id, web.product.price, web.product.quantity, web.product.currency, web.product.category,
    web.search.query, web.context.page.name as page, web.context.page.url, web.context.page.referrer,
    coalesce(web.context.channel, web.context.utm_medium) as channel, web.context.device.type as device,
    web.context.country, payload
from web where web.shop is not null and web.event.type is not null
union all by name
select 'orders' as source, null::bigint as sequence, '' as file, shop_code as tenant_id, 'order-' || order_no as event_id, 'purchase' as event_type,
    cast(cast(placed_at as timestamptz) as timestamp) as occurred_at, occurred_at as received_at,
    visitor_cookie as anonymous_id, customer_no as user_id, order_no as order_id,
    cast(total as decimal(18, 4)) as price, currency
from read_csv('{raw}/orders/*/*', all_varchar = true);

create table kept as
select *, rowid as line_number from read where rowid in (select arg_min(rowid, received_at) from read group by tenant_id, event_id);
drop table read;
delete from kept where source = 'orders' and order_id in (select order_id from kept where source = 'web');

create table events as
with started as (
    select *, coalesce(occurred_at - lag(occurred_at) over device > interval 30 minute, true) as is_start
    from kept where emitter_session_id is null and anonymous_id is not null
    window device as (partition by tenant_id, anonymous_id order by occurred_at, line_number)
),
silent as (
    select * exclude (is_start), max(case when is_start then occurred_at end) over (
        partition by tenant_id, anonymous_id order by occurred_at, line_number) as started_at
    from started
),
placed as (
    select * exclude (started_at), md5(concat_ws('|', tenant_id, anonymous_id, started_at)) as session_id from silent
    union all by name
    select *, emitter_session_id as session_id
    from kept where emitter_session_id is not null or anonymous_id is null
)
select * exclude (emitter_session_id), event_type = 'purchase' as is_outcome,
    case when session_id is not null
    then row_number() over (partition by tenant_id, session_id order by occurred_at, line_number) end as event_number
from placed;
drop table kept;

create table sessions as
select *, [3, 4, 5, 6, 8, 10][1 + cast('0x' || substr(md5(session_id), 1, 7) as bigint) % 6] as drawn_point,
    least(drawn_point, event_count) as point_number, outcome_number > drawn_point as label
from (
    select tenant_id, session_id, min(occurred_at) as started_at, max(occurred_at) as ended_at, count(*) as event_count,
        max(event_number) filter (where is_outcome) as outcome_number
    from events where session_id is not null group by all
);
create table lookup_product as {sql[lookup_product]};
create table lookup_visitor as {sql[lookup_visitor]};
create table events_at_point as {sql[events_at_point]};
create table session_features as
select sessions.label, features.* from ({sql[features_at_point]}) as features
inner join sessions on features.tenant_id = sessions.tenant_id and features.entity_id = sessions.session_id;
copy events to '{out}/events.parquet' (compression zstd);
copy sessions to '{out}/sessions.parquet' (compression zstd);
copy session_features to '{out}/session_features.parquet' (compression zstd);
"""

# A warehouse in which the rows of the audited tables stand so often, each time under ids of their own.
GROWN = {
    "events": "event_id || '-' || i as event_id, session_id || '-' || i as session_id",
    "sessions": "session_id || '-' || i as session_id",
    "session_features": "entity_id || '-' || i as entity_id",
    "duplicate_events": "repeats_event_id || '-0' as repeats_event_id",
}
AUDIT = """
import time
from jollyboat.audit import audit
from jollyboat.store import default_store
audit.load_gx()
began = time.perf_counter()
findings = audit.audit(default_store())
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lines", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--days", type=int, default=365, help="daily files before the one more day; 0 leaves it out"
    )
    requested = parser.parse_args()
    print(f"{'figure':<44}{'min s':>9}{'median s':>10}{'CPU s':>8}{'peak MB':>9}")
    with tempfile.TemporaryDirectory(dir=PROJECT.parent) as folder:
        store = Path(folder) / "startup"
        simulate(store, 1, 20)
        startup = describe("start-up: 20 sessions", rounds(store, requested.rounds))
        for lines in requested.lines:
            measure_size(Path(folder) / str(lines), lines, requested.rounds)
        if requested.days:
            measure_day(
                Path(folder) / "year",
                requested.days,
                min(requested.lines[-1], 1_000_000),
                startup,
                requested.rounds,
            )


def measure_size(store: Path, size: int, count: int) -> None:
    """Raw to snapshot at so many lines and the same in the bare script; then bytes on disk, and the audit."""
    lines = simulate(store, DAYS, round(size / DAYS / LINES_PER_SESSION))["lines"]
    whole = describe(f"{lines:,} lines: raw to snapshot", rounds(store, count))
    bare = [
        measure(
            store, "-c", "import sys, duckdb; duckdb.connect().execute(sys.argv[1])", script(store)
        )
        for _ in range(count)
    ]
    least = describe(f"{lines:,} lines: bare script", bare)
    print(f"{f'{lines:,} lines: times the bare script':<44}{whole / least:>9.2f}")
    folders = (["raw"], ["staged", "warehouse.duckdb", "tables"])
    raw, built = (sum(size_of(store / name) for name in names) for names in folders)
    print(
        f"{f'{lines:,} lines: MB on disk':<44}raw {raw / 1e6:,.0f}, staged, warehouse and tables {built / 1e6:,.0f}"
    )
    rows = grow(store, AUDITED_EVENTS if size >= 1_000_000 else lines)
    result = [measure(store, "-c", AUDIT) for _ in range(count)]
    describe(
        f"audit of {rows:,} events, GX imported",
        [each | {"seconds": float(each["said"].split()[-1])} for each in result],
    )
    shutil.rmtree(store)


def measure_day(store: Path, days: int, lines: int, startup: float, count: int) -> None:
    """One more day after so many daily files, beside a full build of all of them."""
    simulate(store, days + 1, round(lines / days / LINES_PER_SESSION))
    last = sorted(store.glob("raw/web/dt=*"))[-1].name
    later, built = store.with_name("later"), store.with_name("built")
    later.mkdir()
    for source in ("web", "orders"):
        shutil.move(store / "raw" / source / last, later / source)
    rounds(store, 1)
    store.rename(built)
    added, unchanged = [], []
    for _ in range(count):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(
            built, store
        )  # at the same place, because dbt parses everything again where the store is another
        for source in ("web", "orders"):
            shutil.copytree(later / source, store / "raw" / source / last)
        os.sync()  # the copy is not what is measured
        added.append(measure(store, "flows/data.py", "run"))
        unchanged.append(measure(store, "flows/data.py", "run"))
    day = describe(f"one more day after {days}", added)
    again = describe("nothing new", unchanged)
    full = describe(f"full build of {days + 1} days", rounds(store, count))
    print(
        f"one more day takes start-up and {100 * (day - startup) / full:.0f} % of a full build "
        f"({100 * (day - again) / full:.0f} % more than nothing new)"
    )
    for each in (store, later, built):
        shutil.rmtree(each)


def rounds(store: Path, count: int) -> list[dict]:
    """So many whole runs over the store's raw files, each as if it were the first."""
    runs = []
    for _ in range(count):
        for path in store.iterdir():
            if path.name not in {"raw", "truth.parquet", "simulated.json"}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        runs.append(measure(store, "flows/data.py", "run"))
    return runs


def script(store: Path) -> str:
    """The bare script over a store's raw files, with the features' SQL as the last whole build compiled it."""
    models = {
        path.stem: path.read_text()
        for path in (store / "dbt" / "target" / "compiled").rglob("*.sql")
    }
    (store / "bare").mkdir(exist_ok=True)
    return BARE.format(emptied=EMPTIED, raw=store / "raw", out=store / "bare", sql=models)


def grow(store: Path, rows: int) -> int:
    """Repeat the audited tables' rows until there are so many events; returns how many there are."""
    import duckdb

    with duckdb.connect(str(store / "warehouse.duckdb")) as connection:
        (count,) = connection.sql("select count(*) from events").fetchone()
        for table, ids in GROWN.items():
            times = 1 if table == "duplicate_events" else max(1, round(rows / count))
            grown = f"select {table}.* replace ({ids}) from {table}, range({times}) as r(i)"
            connection.execute(f"create or replace table {table} as {grown}")
        return connection.sql("select count(*) from events").fetchone()[0]


def size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def describe(figure: str, runs: list[dict]) -> float:
    """Print a line of the table; returns the least seconds."""
    seconds = [run["seconds"] for run in runs]
    print(
        f"{figure:<44}{min(seconds):>9.1f}{statistics.median(seconds):>10.1f}{min(run['cpu'] for run in runs):>8.1f}"
        f"{max(run['peak'] for run in runs):>9,.0f}",
        flush=True,
    )
    return min(seconds)


if __name__ == "__main__":
    main()
