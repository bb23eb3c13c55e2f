from datetime import date

import duckdb
import pytest

from jollyboat.simulate import raw_files, shop
from jollyboat.simulate.simulate import simulate
from jollyboat.simulate.tenants import TENANTS, default_tenants
from jollyboat.store import UserError

SETTINGS = {"seed": 7, "start": date(2026, 1, 1), "days": 24, "sessions_per_day": 400}
TINY = SETTINGS | {"days": 2, "sessions_per_day": 40}
LINES = """
create table lines as select line, regexp_extract(filename, 'dt=([0-9-]+)', 1)::date as landed
from read_csv('{0}/raw/web/*/*.gz', names = ['line'], header = false, delim = e'\\x1f', quote = '', filename = true);
create table events as select
    landed, line, line ->> '$.event.id' as id, line ->> '$.event.type' as type, line ->> '$.session.id' as session_id,
    (line ->> '$.event.ts')::timestamp as occurred_at, (line ->> '$.received')::timestamp as received_at,
    line ->> '$.shop' as shop, line ->> '$.visitor.anonymous_id' as cookie, line ->> '$.visitor.user_id' as user_id,
    line ->> '$.context.utm_medium' as medium, line ->> '$.order.id' as bought from lines where json_valid(line);
create view truth as from '{0}/truth.parquet';
create view orders as from read_csv('{0}/raw/orders/*/*.csv', all_varchar = true)
"""
LABELS = (
    "(select shop, session_id, max((type = 'purchase')::int) as label from events group by all)"
)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A database over the simulated logs: all `lines`, those that parse as `events`, `orders` and `truth`."""
    folder = tmp_path_factory.mktemp("shop")
    simulate(folder / "raw", folder / "truth.parquet", **SETTINGS)
    return duckdb.connect().execute(LINES.format(folder))


def test_the_same_seed_gives_the_same_bytes_and_more_days_only_add_files(tmp_path):
    a, b, c = (
        _simulate(tmp_path / "a"),
        _simulate(tmp_path / "b", days=3),
        _simulate(tmp_path / "c", seed=8),
    )
    assert a.items() < b.items()
    assert a.keys() == c.keys() and not set(a.values()) & set(c.values())


def test_the_simulator_lists_the_files_that_it_wrote_and_no_other(tmp_path):
    _simulate(tmp_path, days=1)
    mine = tmp_path / "raw/web/dt=2026-01-02/events.jsonl.gz"
    mine.parent.mkdir()
    mine.touch()
    _simulate(tmp_path)

    owned = (tmp_path / "simulated.txt").read_text().splitlines()
    written = {path for path in tmp_path.glob("raw/*/*/*") if path != mine}
    assert {str(path.relative_to(tmp_path)) for path in written} == set(owned)
    assert 3 == len(owned)


def test_a_second_run_writes_only_what_is_missing_and_other_settings_are_refused(tmp_path):
    before = _simulate(tmp_path)
    next(tmp_path.glob("raw/web/*/*.gz")).unlink()
    assert [simulate(tmp_path / "raw", None, **TINY)["files_written"] for _ in range(2)] == [1, 0]
    assert before == _simulate(tmp_path)
    with pytest.raises(UserError, match="make clean"):
        _simulate(tmp_path, seed=8)
    (tmp_path / "simulated.json").unlink()
    with pytest.raises(UserError, match="not simulated"):
        _simulate(tmp_path)


RATES = {
    "avg((not json_valid(line))::int) from lines": raw_files.BROKEN,
    "1 - count(distinct line) / count(*) from events": raw_files.REPEATED,
    "avg((id is null)::int) from events": raw_files.NO_EVENT_ID,
    "avg((cookie is null)::int) from events": raw_files.NO_ANONYMOUS_ID,
    "avg((received_at - occurred_at between '50 min' and '3 days')::int) from events": raw_files.LATE,
    "avg((medium is not null)::int) from events": 1 - raw_files.RENAMED_FROM_DAY / SETTINGS["days"],
    "avg((session_id is null)::int) from events": shop.DEVICE_SHARES[shop.APP],
    "avg((bought is null)::int) from orders left join events on bought = order_no": raw_files.UNREPORTED,
    "avg(least(k, n - k, 1)) from (select count(user_id) k, count(*) n from events group by session_id)": 0.03,
    "avg((n > 1)::int) from (select count(distinct landed) n from events group by cookie)": 0.3,  # come back
}


@pytest.mark.parametrize(("share", "rate"), RATES.items())
def test_dirt_and_visitors_are_there_at_about_their_rate(logs, share, rate):
    assert rate / 2 < logs.sql(f"select {share}").fetchone()[0] < rate * 2


def test_lines_land_on_the_day_they_arrive(logs):
    assert not logs.sql(
        "from events select line group by line having min(received_at)::date <> min(landed)"
    ).fetchall()


def test_each_tenant_has_a_label_rate_worth_learning(logs):
    rates = dict(logs.sql(f"select shop, avg(label) from {LABELS} group by all").fetchall())
    assert rates.keys() == set(TENANTS) and all(0.02 < rate < 0.15 for rate in rates.values())


@pytest.mark.parametrize("event_number", [1, 3, 5, 8])
def test_the_truth_is_calibrated_and_ranks_far_better_than_chance(logs, event_number):
    report = f"truth join {LABELS} using (session_id) where event_number = {event_number} and probability > 1e-6"
    judged = logs.sql(
        f"select probability, label from {report} order by probability desc, session_id"
    ).df()
    assert judged["probability"].mean() == pytest.approx(judged["label"].mean(), rel=0.15)
    assert judged["label"].head(len(judged) // 10).mean() > 3 * judged["label"].mean()


CONSECUTIVE_VIEWS = """
    select (last ->> '$.id')[2:]::int as last, (product ->> '$.id')[2:]::int as product,
        (product ->> '$.price')::double / (1 - (product ->> '$.discount')::double) as list_price,
        (product ->> '$.discount')::double > 0 as has_coupon
    from (
        select line -> '$.product' as product,
            lag(product) over (partition by session_id order by occurred_at) as last
        from events where shop = 'acme' and session_id is not null and type = 'product_view'
    ) where (last ->> '$.id') <> (product ->> '$.id')
"""


@pytest.fixture(scope="module")
def views(logs):
    """The product views of acme after another product, and whether they show a companion."""
    products = shop.draw_products(default_tenants(), SETTINGS["seed"])
    companions = shop.draw_companions(products, SETTINGS["seed"])
    views = logs.sql(CONSECUTIVE_VIEWS).df()
    shown = companions[views["last"] - 1] == views[["product"]].to_numpy() - 1
    return views.assign(is_companion=shown.any(axis=1))


def test_companions_are_other_products_of_the_same_tenant():
    products = shop.draw_products(default_tenants(), SETTINGS["seed"])
    companions = shop.draw_companions(products, SETTINGS["seed"])
    tenant = products["category"].to_numpy() // shop.CATEGORY_COUNT

    assert (tenant[companions] == tenant[:, None]).all()
    assert (companions != products.index.to_numpy()[:, None]).all()
    assert all(len(set(row)) == len(shop.COMPANION_WEIGHTS) for row in companions)


def test_a_companion_follows_its_product_far_more_often_than_by_chance(views):
    by_chance = len(shop.COMPANION_WEIGHTS) / (views["product"].nunique() - 1)

    assert by_chance < 0.04
    assert views["is_companion"].mean() == pytest.approx(shop.COMPANION_SHARE, abs=0.06)


def test_visitors_with_a_coupon_see_cheaper_companions(views):
    prices = views[views["is_companion"]].groupby("has_coupon")["list_price"].mean()

    assert prices[True] < 0.8 * prices[False]


def test_a_product_has_one_category(logs):
    categories = "count(distinct line ->> '$.product.category')"
    product = "line ->> '$.product.id'"
    shown = f"events where {product} is not null"
    counts = f"select {categories} as n from {shown} group by shop, {product}"
    assert 1 == logs.sql(f"select max(n) from ({counts})").fetchone()[0]


def _simulate(folder, **more):
    simulate(folder / "raw", None, **TINY | more)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("raw/*/*/*")}
