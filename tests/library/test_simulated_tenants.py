"""Any number of simulated tenants differ in size, in kind, in their words and in their first day."""

import gzip
import hashlib
import json
import re
from datetime import date, timedelta

import duckdb
import numpy as np
import pytest
from test_simulate import LINES

from jollyboat.simulate import tenants as kinds_of_shops
from jollyboat.simulate.simulate import simulate
from jollyboat.simulate.tenants import KINDS, LONG_AGO, draw_tenants
from jollyboat.simulate.vocabulary import CATEGORIES, EVENT_NAMES, MARKETS
from jollyboat.store import PROJECT, UserError

START, SEED, COUNT = date(2026, 1, 1), 7, 60
SETTINGS = {"seed": SEED, "start": START, "tenants": COUNT, "days": 24, "sessions_per_day": 600}
TINY = SETTINGS | {"days": 2, "sessions_per_day": 60, "tenants": 8}
# Of 2 days of 40 sessions a day with seed 7, before there were other tenants than these three.
BYTES_OF_THREE = "47e86bf9b933bd362e89ac147153301b86e1cc2f49a74fe247d3309e9a4b258d"
STAGING = PROJECT / "dbt/models/staging/stg_web__events.sql"


@pytest.fixture(scope="module")
def tenants():
    return draw_tenants(COUNT, SEED)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A database with the `events` of the logs, and the `truth` of each."""
    folder = tmp_path_factory.mktemp("shops")
    simulate(folder / "raw", folder / "truth.parquet", **SETTINGS)
    return duckdb.connect().execute(LINES.format(folder))


def test_without_a_number_the_bytes_are_those_of_the_three_tenants(tmp_path):
    files = _simulate(tmp_path, tenants=None, sessions_per_day=40)

    lines = (gzip.decompress(files[name]) if name.endswith("gz") else files[name] for name in files)
    assert BYTES_OF_THREE == hashlib.sha256(b"".join(lines)).hexdigest()
    settings = json.loads((tmp_path / "simulated.json").read_text())
    assert {"seed": SEED, "start": "2026-01-01", "sessions_per_day": 40} == settings


def test_the_same_seed_gives_the_same_bytes_and_more_days_only_add_files(tmp_path):
    a, b, c = (
        _simulate(tmp_path / "a"),
        _simulate(tmp_path / "b", days=3),
        _simulate(tmp_path / "c", seed=8),
    )

    assert a.items() < b.items()
    assert a.keys() == c.keys() and not set(a.values()) & set(c.values())


def test_another_number_of_tenants_is_refused_beside_the_first(tmp_path):
    _simulate(tmp_path)

    for number in (9, None):
        with pytest.raises(UserError, match="make clean"):
            _simulate(tmp_path, tenants=number)


@pytest.mark.parametrize("number", [0, 10_000])
def test_a_number_of_tenants_that_cannot_be_simulated_is_refused(tmp_path, number):
    with pytest.raises(UserError, match="--tenants from 1 to 9999"):
        _simulate(tmp_path, tenants=number)


def test_one_tenant_may_be_alone(tmp_path):
    files = _simulate(tmp_path, tenants=1, sessions_per_day=1)

    assert 4 == len(files)


@pytest.mark.parametrize("number", [3, 6])
def test_few_tenants_are_in_more_than_one_bucket_of_their_hash(number):
    names = draw_tenants(number, SEED).names

    buckets = "select count(distinct hash(name) % 3) from (select unnest(?) as name)"
    assert 1 < duckdb.execute(buckets, [names]).fetchone()[0]


def test_the_names_are_valid_and_unique():
    names = draw_tenants(600, SEED).names

    assert 600 == len(set(names))
    assert all(re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) for name in names)


def test_sizes_follow_a_power_law():
    shares = draw_tenants(600, SEED).shares

    assert 0.05 < shares[0] < 0.10
    ranks = np.log(np.arange(1, 601))
    assert np.polyfit(ranks, np.log(shares), 1)[0] == pytest.approx(-0.8)


def test_the_logs_have_the_sizes_of_the_tenants(logs, tenants):
    counts = "select shop, count(distinct session_id) as n from events group by all"
    sessions = logs.sql(counts).df().set_index("shop")["n"]
    usual = tenants.first_days == LONG_AGO
    names = np.array(tenants.names)[usual]

    actual = sessions.reindex(names).to_numpy()

    expected = tenants.shares[usual] / tenants.shares[usual].sum()
    assert (actual / actual.sum())[:3] == pytest.approx(expected[:3], rel=0.15)
    assert np.corrcoef(actual, expected)[0, 1] > 0.98


def test_one_tenant_in_eight_has_no_event_before_its_first_day(logs, tenants):
    first_days = dict(
        logs.sql(
            "select shop, min(occurred_at + interval 1 hour)::date from events group by all"
        ).fetchall()
    )
    late = [rank for rank, day in enumerate(tenants.first_days) if day != LONG_AGO]

    assert len(late) == pytest.approx(COUNT / 8, abs=1)
    assert all(5 <= tenants.first_days[rank] < 24 for rank in late)
    for rank in late:
        start = START + timedelta(days=int(tenants.first_days[rank]))
        assert first_days.get(tenants.names[rank], start) >= start
    assert all(first_days[name] <= START for name in tenants.names[:5])


def test_kinds_of_shops_differ_in_what_drives_a_purchase(logs, tenants):
    """By the truth at the first event, ads bring buyers to one kind of shop and none to another."""
    kinds = dict(zip(tenants.names, tenants.kinds.tolist(), strict=True))
    truth = logs.sql(
        """
        select shop, coalesce(line ->> '$.context.channel', medium) as channel,
            ln(probability / (1 - probability)) as log_odds
        from truth join events on truth.event_id = events.id
        where event_number = 1 and probability > 1e-6
        """
    ).df()

    kind = truth["shop"].map(kinds)
    own = dict(zip(tenants.names, tenants.channel[:, 4] - tenants.channel[:, 0], strict=True))

    table = truth.pivot_table("log_odds", kind, "channel")

    ads = (table["ads"] - table["direct"]).tolist()
    assert len(KINDS) == len(table)
    assert ads == pytest.approx(truth["shop"].map(own).groupby(kind).mean().tolist(), abs=0.4)
    assert max(ads) > 0.5 and min(ads) < -1


def test_tenants_of_a_kind_differ_around_what_the_kind_has():
    tenants = draw_tenants(600, SEED)
    fashion = tenants.channel[tenants.kinds == 0]

    assert fashion.mean(axis=0) == pytest.approx(kinds_of_shops.CHANNEL[0], abs=0.2)
    assert fashion.std(axis=0) == pytest.approx([kinds_of_shops.OWN_SPREAD] * 5, rel=0.2)


def test_the_truth_is_calibrated_for_every_kind(logs, tenants):
    kinds = dict(zip(tenants.names, tenants.kinds.tolist(), strict=True))
    judged = logs.sql(
        """
        select shop, probability, label from truth
        join (
            select shop, session_id, max((bought is not null)::int) as label from events group by all
        ) using (session_id)
        where event_number = 3
        """
    ).df()

    means = judged.groupby(judged["shop"].map(kinds))[["probability", "label"]].mean()

    assert means["probability"].tolist() == pytest.approx(means["label"].tolist(), rel=0.12)


def test_tenants_report_in_their_own_currency_language_and_event_names(logs):
    words = {
        name: {
            value
            for (value,) in logs.sql(
                f"select distinct {name} from events where {name} is not null"
            ).fetchall()
        }
        for name in ("type", "line ->> '$.product.currency'", "line ->> '$.product.category'")
    }
    types, currencies, categories = words.values()

    assert {currency for currency, _, _ in MARKETS} == currencies
    assert {word for language in CATEGORIES.values() for word in language} == categories
    assert {other for names in EVENT_NAMES for other in names.values()} < types


def test_a_price_is_in_units_of_the_currency(logs):
    prices = dict(
        logs.sql(
            "select line ->> '$.product.currency', median((line ->> '$.product.price')::double) "
            "from events where bought is null group by all"
        ).fetchall()
    )

    assert 8 < prices["SEK"] / prices["EUR"] < 16


def test_the_projects_staging_model_maps_every_name_of_an_event():
    sql = STAGING.read_text()

    missing = [
        (other, name)
        for names in EVENT_NAMES
        for name, other in names.items()
        if not re.search(rf"in \([^)]*'{other}'[^)]*\)\s+then '{name}'", sql)
    ]
    assert not missing


def test_the_second_largest_tenant_breaks_on_its_day_and_no_other(tmp_path):
    truth = tmp_path / "b/truth.parquet"
    whole, broken = (
        _simulate(tmp_path / "a", days=3),
        _simulate(tmp_path / "b", truth, days=3, broken=2),
    )
    changed = {name for name in whole if whole[name] != broken[name]}

    events = duckdb.connect().execute(LINES.format(tmp_path / "b"))

    assert {f"raw/web/dt=2026-01-0{day}/events.jsonl.gz" for day in (2, 3)} == changed
    untyped = "select distinct shop from events where type is null"
    assert [("shop-0002",)] == events.sql(untyped).fetchall()
    typed = "select max(occurred_at)::date from events where shop = 'shop-0002'"
    assert date(2026, 1, 1) == events.sql(typed).fetchone()[0]


def _simulate(folder, truth=None, **more):
    simulate(folder / "raw", truth, **TINY | more)
    files = sorted(folder.glob("raw/*/*/*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
