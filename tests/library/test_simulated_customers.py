"""The simulated shop's customers come by habit, and lapse as often as their truth says."""

from datetime import date, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from jollyboat.simulate.customers import CUSTOMER_SHARE, FIRST_CUSTOMER, predict_absence
from jollyboat.simulate.simulate import simulate

START, DAYS, HORIZON = date(2026, 1, 1), 84, 14
SETTINGS = {"seed": 7, "start": START, "sessions_per_day": 400}
LOGS = """
select line ->> '$.event.ts' as occurred_at, line ->> '$.visitor.user_id' as user_id,
    line ->> '$.visitor.anonymous_id' as cookie, line ->> '$.session.id' as session_id
from read_csv('{0}/raw/web/*/*.gz', names = ['line'], header = false, delim = e'\\x1f', quote = '')
where json_valid(line)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three months of logs under `raw`, and the customers' truth."""
    folder = tmp_path_factory.mktemp("shop")
    customers = folder / "customers.parquet"
    simulate(folder / "raw", None, customers=customers, days=DAYS, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def visits(folder):
    """The truth: a row for each visit of a customer, `day` as a number from 0."""
    visits = duckdb.read_parquet(str(folder / "customers.parquet")).df()
    return visits.assign(day=(pd.to_datetime(visits["day"]) - pd.Timestamp(START)).dt.days)


@pytest.fixture(scope="module")
def logs(folder):
    """A database with the `events` of the logs."""
    return duckdb.connect().execute(f"create table events as {LOGS.format(folder)}")


@pytest.fixture(scope="module")
def mondays(visits):
    """Every customer at each Monday who came on 3 days of the last 28 and in the last 14.

    With the days of `silence`, the true `probability` of two weeks without a visit, and `absent`.
    """
    first = 28 + (-(START + timedelta(days=28)).weekday()) % 7
    return pd.concat([_look(visits, day) for day in range(first, DAYS - HORIZON, 7)])


def test_the_logs_contain_the_visits_of_the_truth(visits, logs):
    seen = logs.sql(
        f"select user_id, min(occurred_at)::date - date '{START}' as day from events "
        f"where user_id[2:]::bigint >= {FIRST_CUSTOMER} and session_id is not null group by "
        "user_id, session_id"
    ).df()

    both = seen.merge(visits, on=["user_id", "day"])
    assert len(both) > 0.99 * len(seen)


def test_a_fifth_of_the_sessions_are_of_customers_from_the_first_week_to_the_last(visits):
    weeks = visits.groupby(visits["day"] // 7)["user_id"].agg(["size", "nunique"])

    sessions = 7 * SETTINGS["sessions_per_day"]
    assert (weeks["size"] / sessions).tolist() == pytest.approx([CUSTOMER_SHARE] * 12, rel=0.15)
    assert weeks["nunique"].iloc[0] == pytest.approx(weeks["nunique"].iloc[-1], rel=0.1)


def test_a_customer_is_logged_in_from_the_first_event_and_keeps_one_cookie(logs):
    customers = f"""
        select max(user_id) as customer, count(*) - count(user_id) as anonymous
        from events where session_id is not null
        group by session_id having max(user_id)[2:]::bigint >= {FIRST_CUSTOMER}
    """
    assert 0 == logs.sql(f"select sum(anonymous) from ({customers})").fetchone()[0]
    cookies = f"""
        select count(distinct cookie) as n, user_id from events
        where user_id[2:]::bigint >= {FIRST_CUSTOMER} group by user_id
    """
    assert 1 == logs.sql(f"select max(n) from ({cookies})").fetchone()[0]


def test_a_customer_visits_at_most_once_a_day(visits):
    assert not visits.duplicated(["user_id", "day"]).any()


def test_about_8_percent_of_the_visits_are_the_last(visits):
    assert 0.06 < visits["lapse_probability"].mean() < 0.10


def test_an_absence_is_predicted_as_often_as_it_happens(mondays):
    bins = pd.qcut(mondays["probability"], 6)

    means = mondays.groupby(bins, observed=True)[["probability", "absent"]].mean()

    assert len(mondays) > 1000
    assert means["probability"].tolist() == pytest.approx(means["absent"].tolist(), abs=0.06)
    assert means["probability"].iloc[0] < 0.05
    assert means["probability"].iloc[-1] > 0.8


def test_the_truth_ranks_absences_far_better_than_recency_and_frequency(mondays):
    truth, silence, rarity = (
        average_precision_score(mondays["absent"], score)
        for score in (mondays["probability"], mondays["silence"], -mondays["visiting_days"])
    )

    assert truth > 1.4 * silence
    assert truth > 2 * rarity


def test_more_days_add_visits_and_leave_the_others(tmp_path):
    tables = []
    for days in (2, 3):
        path = tmp_path / f"{days}.parquet"
        simulate(tmp_path / "raw", None, customers=path, days=days, **SETTINGS)
        tables.append(duckdb.read_parquet(str(path)).df())

    fewer, more = tables
    pd.testing.assert_frame_equal(fewer, more.head(len(fewer)))
    assert len(more) > len(fewer)


def test_the_smallest_shop_has_customers(tmp_path):
    size = SETTINGS | {"days": 5, "sessions_per_day": 1}
    counts = simulate(tmp_path / "raw", None, customers=tmp_path / "customers.parquet", **size)

    assert 5 == counts["sessions"]
    assert 11 == counts["files_written"]


def test_an_absence_is_certain_after_a_certain_lapse_and_a_habit_alone_without_one():
    assert 1 == predict_absence(0.5, 1.0, 0, 14)
    assert 0.5**14 == predict_absence(0.5, 0.0, 3, 14)
    assert 0.75 == predict_absence(0.5, 0.5, 0, 1)
    assert np.all(np.diff(predict_absence(0.25, 0.1, np.arange(20), 14)) > 0)


def _look(visits: pd.DataFrame, day: int) -> pd.DataFrame:
    past = visits[visits["day"] < day]
    last = past.drop_duplicates("user_id", keep="last").set_index("user_id")
    last["visiting_days"] = past[past["day"] >= day - 28].groupby("user_id").size()
    last = last[(last["visiting_days"] >= 3) & (last["day"] >= day - 14)]
    later = visits.loc[visits["day"].between(day, day + HORIZON - 1), "user_id"]
    last = last.assign(silence=day - 1 - last["day"], absent=~last.index.isin(later))
    truth = last["visit_chance"], last["lapse_probability"], last["silence"]
    return last.assign(probability=predict_absence(*truth, HORIZON))
