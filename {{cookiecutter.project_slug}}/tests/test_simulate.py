from datetime import date
from pathlib import Path

import duckdb
import pytest

from ml import dirt
from ml.simulate import CannotSimulate, simulate

SETTINGS = {"seed": 7, "start": date(2026, 1, 1), "days": 24, "sessions_per_day": 400}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder of logs and truth, what was drawn, and a database: `lines`, those that parse as `events`, `truth`."""
    folder = tmp_path_factory.mktemp("shop")
    drawn = simulate(folder / "raw", folder / "truth.parquet", **SETTINGS)
    database = duckdb.connect()
    database.execute("set TimeZone = 'UTC'")
    database.execute(f"""
        create table lines as
        select line, regexp_extract(filename, 'dt=([0-9-]+)', 1)::date as landed
        from read_csv('{folder}/raw/web/*/*.gz', columns = {{'line': 'VARCHAR'}}, delim = e'\\x1f', quote = '', escape = '',
            header = false, auto_detect = false, null_padding = true, filename = true)
    """)
    database.execute("""
        create table events as
        select landed, line ->> '$.event.id' as id, line ->> '$.event.type' as type, line ->> '$.session.id' as session,
            line ->> '$.shop' as shop, line ->> '$.visitor.anonymous_id' as cookie, line ->> '$.visitor.user_id' as user_id,
            line ->> '$.context.device.type' as device, line ->> '$.event.ts' as at, line ->> '$.received' as received, line
        from lines where json_valid(line)
    """)
    database.execute(f"create view truth as from '{folder}/truth.parquet'")
    database.execute(f"create view orders as from read_csv('{folder}/raw/orders/*/*.csv', all_varchar = true)")
    return folder, drawn, database


def test_the_same_seed_gives_the_same_bytes_and_more_days_only_add_files(tmp_path):
    small = SETTINGS | {"sessions_per_day": 40}
    simulate(tmp_path / "a" / "raw", tmp_path / "a" / "truth.parquet", **small | {"days": 2})
    simulate(tmp_path / "b" / "raw", None, **small | {"days": 3})
    simulate(tmp_path / "c" / "raw", None, **small | {"days": 2, "seed": 8})

    a, b, c = (read_all(tmp_path / name / "raw") for name in "abc")
    assert a.items() < b.items()
    assert a.keys() == c.keys() and not set(a.values()) & set(c.values())


def test_a_second_run_writes_only_what_is_missing(tmp_path):
    small = SETTINGS | {"sessions_per_day": 40, "days": 2}
    simulate(tmp_path / "raw", None, **small)
    before = read_all(tmp_path / "raw")

    assert simulate(tmp_path / "raw", None, **small)["files_written"] == 0
    next(tmp_path.glob("raw/web/*/*.gz")).unlink()
    assert simulate(tmp_path / "raw", None, **small)["files_written"] == 1
    assert simulate(tmp_path / "raw", None, **small | {"days": 3})["files_written"] == 2
    assert before.items() < read_all(tmp_path / "raw").items()


def test_other_settings_over_existing_logs_are_refused_with_the_way_out(tmp_path):
    small = SETTINGS | {"sessions_per_day": 1, "days": 1}
    simulate(tmp_path / "raw", None, **small)
    with pytest.raises(CannotSimulate, match="make clean"):
        simulate(tmp_path / "raw", None, **small | {"seed": 8})
    (tmp_path / "own" / "raw" / "web" / "dt=2026-01-01").mkdir(parents=True)
    with pytest.raises(CannotSimulate, match="not simulated"):
        simulate(tmp_path / "own" / "raw", None, **small)


def test_lines_land_on_the_day_they_arrive(shop):
    """A repeated line may land a little later than its first copy."""
    late, early, all_lines = (
        shop[2]
        .sql("select count_if(received::date < landed), count_if(received::date > landed), count(*) from events")
        .fetchone()
    )
    assert early == 0
    assert late / all_lines < 0.001


@pytest.mark.parametrize(
    ("share", "rate"),
    [
        ("count_if(line is not null and not json_valid(line)) / count(*) from lines", dirt.BROKEN),
        ("count_if(line is null or line = '') / count(*) from lines", dirt.BLANK),
        ("1 - count(distinct line) / count(*) from events", dirt.REPEATED),
        ("count_if(id is null) / count(*) from events", dirt.NO_EVENT_ID),
        ("count_if(cookie is null) / count(*) from events", dirt.NO_ANONYMOUS_ID),
        ("count_if(at like '%+02:00') / count(*) from events", dirt.WITH_OFFSET),
        (
            """count_if(regexp_matches(line, '"price":"')) / count_if(line like '%"price"%') from events""",
            dirt.PRICE_AS_TEXT,
        ),
        (
            "count_if(received::timestamptz - at::timestamptz between '50 min' and '3 days') / count(*) from events",
            dirt.LATE,
        ),
        ("count_if(year(at::timestamptz) in (1970, 2099)) / count(*) from events", dirt.ABSURD_TIME),
        ("count_if(session is null) / count(*) from events where device <> 'bot'", 0.10),
        ("count_if(type = 'newsletter_popup') / count(*) from events", 0.002),
        ("count_if(landed >= '2026-01-21') / 4 / count(*) * 24 from events where line like '%utm_medium%'", 6.0),
        (
            "count_if(order_no not in (select line ->> '$.order.id' from events where type = 'purchase')) / count(*) from orders",
            0.03,
        ),
    ],
)
def test_dirt_is_there_at_about_its_rate(shop, share, rate):
    found = shop[2].sql(f"select {share}").fetchone()[0]
    assert rate / 2 < found < rate * 2


def test_each_tenant_has_a_label_rate_worth_learning(shop):
    rates = dict(
        shop[2]
        .sql("""
            with sessions as (select shop, session, bool_or(type = 'purchase') as label from events where session is not null group by all)
            select shop, avg(label::int) from sessions group by all
        """)
        .fetchall()
    )
    assert rates.keys() == {"acme", "globex", "initech"}
    assert all(0.02 < rate < 0.15 for rate in rates.values())


@pytest.mark.parametrize("event_number", [1, 3, 5, 8])
def test_the_truth_is_calibrated_and_ranks_far_better_than_chance(shop, event_number):
    judged = (
        shop[2]
        .sql(f"""
        with outcomes as (select session as session_id, bool_or(type = 'purchase') as label from events group by all)
        select probability, label from truth join outcomes using (session_id)
        where event_number = {event_number} and probability > 0 order by probability desc
    """)
        .df()
    )
    assert judged["probability"].mean() == pytest.approx(judged["label"].mean(), rel=0.15)
    assert judged["label"].head(len(judged) // 10).mean() > 3 * judged["label"].mean()


def test_visitors_return_log_in_midway_and_use_two_devices(shop):
    several_days, midway, several_cookies = (
        shop[2]
        .sql("""
            select
                (select count(*) from (select cookie from events group by all having count(distinct landed) > 2)),
                (select count(*) from (select session from events group by all having count(user_id) between 1 and count(*) - 1)),
                (select count(*) from (select user_id from events where user_id is not null group by all having count(distinct cookie) > 1))
        """)
        .fetchone()
    )
    assert min(several_days, midway, several_cookies) > 20


def read_all(raw: Path) -> dict[str, bytes]:
    return {str(path.relative_to(raw)): path.read_bytes() for path in raw.rglob("*") if path.is_file()}
