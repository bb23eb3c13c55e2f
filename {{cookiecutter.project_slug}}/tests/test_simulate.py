from datetime import date
from pathlib import Path

import duckdb
import pytest

from ml import dirt
from ml.browsing import BLOCKED_SHARE, FOLLOWERS, HOME, POPUP
from ml.shop import APP, DEVICE_SHARES
from ml.simulate import CannotSimulate, simulate

SETTINGS = {"seed": 7, "start": date(2026, 1, 1), "days": 24, "sessions_per_day": 400}
TINY = SETTINGS | {"days": 2, "sessions_per_day": 40}
TEXT = "columns = {'line': 'VARCHAR'}, delim = e'\\x1f', quote = '', escape = '', header = false, auto_detect = false"
EVENTS = """
create table events as
select
    landed, line, line ->> '$.event.id' as id, line ->> '$.event.type' as type, line ->> '$.event.ts' as ts,
    (line ->> '$.event.ts')::timestamptz as occurred_at, (line ->> '$.received')::timestamptz as received_at,
    line ->> '$.session.id' as session_id, line ->> '$.shop' as shop, line ->> '$.visitor.anonymous_id' as cookie,
    line ->> '$.visitor.user_id' as user_id, line ->> '$.context.device.type' as device,
    line ->> '$.context.utm_medium' as utm_medium, line ->> '$.order.id' as order_id, line -> '$.product.price' as price
from lines where json_valid(line)
"""
LABELS = (
    "select shop, session_id, bool_or(type = 'purchase')::int as label from events where session_id > '' group by all"
)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A database over the simulated logs: all `lines`, those that parse as `events`, `orders` and `truth`."""
    folder = tmp_path_factory.mktemp("shop")
    simulate(folder / "raw", folder / "truth.parquet", **SETTINGS)
    database = duckdb.connect()
    database.execute("set TimeZone = 'UTC'")
    landed = "regexp_extract(filename, 'dt=([0-9-]+)', 1)::date as landed"
    web = f"read_csv('{folder}/raw/web/*/*.gz', {TEXT}, null_padding = true, filename = true)"
    database.execute(f"create table lines as select line, {landed} from {web}")
    database.execute(EVENTS)
    database.execute(f"create view truth as from '{folder}/truth.parquet'")
    database.execute(f"create view orders as from read_csv('{folder}/raw/orders/*/*.csv', all_varchar = true)")
    return database


def test_the_same_seed_gives_the_same_bytes_and_more_days_only_add_files(tmp_path):
    simulate(tmp_path / "a" / "raw", tmp_path / "a" / "truth.parquet", **TINY)
    simulate(tmp_path / "b" / "raw", None, **TINY | {"days": 3})
    simulate(tmp_path / "c" / "raw", None, **TINY | {"seed": 8})

    a, b, c = (_read_all(tmp_path / name / "raw") for name in "abc")
    assert a.items() < b.items()
    assert a.keys() == c.keys()
    assert not set(a.values()) & set(c.values())


def test_a_second_run_writes_only_what_is_missing(tmp_path):
    simulate(tmp_path / "raw", None, **TINY)
    before = _read_all(tmp_path / "raw")

    assert simulate(tmp_path / "raw", None, **TINY)["files_written"] == 0
    next(tmp_path.glob("raw/web/*/*.gz")).unlink()
    assert simulate(tmp_path / "raw", None, **TINY)["files_written"] == 1
    assert simulate(tmp_path / "raw", None, **TINY | {"days": 3})["files_written"] == 2
    assert before.items() < _read_all(tmp_path / "raw").items()


def test_other_settings_over_existing_logs_are_refused_with_the_way_out(tmp_path):
    simulate(tmp_path / "simulated" / "raw", None, **TINY | {"sessions_per_day": 1})
    (tmp_path / "own" / "raw" / "web" / "dt=2026-01-01").mkdir(parents=True)

    with pytest.raises(CannotSimulate, match="make clean"):
        simulate(tmp_path / "simulated" / "raw", None, **TINY | {"sessions_per_day": 2})
    with pytest.raises(CannotSimulate, match="not simulated"):
        simulate(tmp_path / "own" / "raw", None, **TINY)


def test_lines_land_on_the_day_they_arrive(logs):
    """Only a repeat may land on a later day than its first copy was received."""
    query = """
        select count_if(received_at::date > landed), count_if(received_at::date < landed and first_landed = landed)
        from (select *, min(landed) over (partition by line) as first_landed from events)
    """
    assert logs.sql(query).fetchone() == (0, 0)


@pytest.mark.parametrize(
    ("share", "rate"),
    [
        ("avg((not json_valid(line))::int) from lines where line > ''", dirt.BROKEN),
        ("avg((coalesce(line, '') = '')::int) from lines", dirt.BLANK),
        ("1 - count(distinct line) / count(*) from events", dirt.REPEATED),
        ("avg((id is null)::int) from events", dirt.NO_EVENT_ID),
        ("avg((cookie is null)::int) from events", dirt.NO_ANONYMOUS_ID),
        ("avg((ts like '%+02:00')::int) from events", dirt.WITH_OFFSET),
        ("avg((price::text like '\"%')::int) from events where price is not null", dirt.PRICE_AS_TEXT),
        ("avg((received_at - occurred_at between '50 min' and '3 days')::int) from events", dirt.LATE),
        ("avg((year(occurred_at) in (1970, 2099))::int) from events", dirt.ABSURD_TIME),
        ("avg((utm_medium is not null)::int) from events", 1 - dirt.RENAMED_FROM_DAY / SETTINGS["days"]),
        ("avg((session_id is null)::int) from events where device <> 'bot'", DEVICE_SHARES[APP]),
        ("avg((type = 'newsletter_popup')::int) from events", FOLLOWERS[HOME, POPUP]),
        ("avg((order_id is null)::int) from orders left join events on order_id = order_no", 2 * BLOCKED_SHARE),
    ],
)
def test_dirt_is_there_at_about_its_rate(logs, share, rate):
    found = logs.sql(f"select {share}").fetchone()[0]
    assert rate / 2 < found < rate * 2


def test_each_tenant_has_a_label_rate_worth_learning(logs):
    rates = dict(logs.sql(f"select shop, avg(label) from ({LABELS}) group by all").fetchall())
    assert rates.keys() == {"acme", "globex", "initech"}
    assert all(0.02 < rate < 0.15 for rate in rates.values())


@pytest.mark.parametrize("event_number", [1, 3, 5, 8])
def test_the_truth_is_calibrated_and_ranks_far_better_than_chance(logs, event_number):
    """Bots, whose probability is 0, are left out; a purchase has probability 0 afterwards."""
    judged = logs.sql(f"""
        select probability, label from truth join ({LABELS}) using (session_id)
        where event_number = {event_number} and probability > 0 order by probability desc, session_id
    """).df()
    assert judged["probability"].mean() == pytest.approx(judged["label"].mean(), rel=0.15)
    assert judged["label"].head(len(judged) // 10).mean() > 3 * judged["label"].mean()


@pytest.mark.parametrize(
    "people",
    [
        "select cookie from events group by all having count(distinct landed) > 2",
        "select session_id from events group by all having count(user_id) between 1 and count(*) - 1",
        "select user_id from events group by all having user_id > '' and count(distinct cookie) > 1",
    ],
    ids=["return", "log in midway", "use two devices"],
)
def test_visitors(logs, people):
    assert len(logs.sql(people).fetchall()) > 20


def _read_all(raw: Path) -> dict[str, bytes]:
    return {str(path.relative_to(raw)): path.read_bytes() for path in raw.rglob("*") if path.is_file()}
