"""Ranking questions: points and their next items, candidates that know no future, figures, reasons."""

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from ranking_data import COVISITS, EVENTS, PAIRS, POINTS, POPULAR, QUESTION, frame, render, shop

from jollyboat.ranking import evaluate, rankers
from jollyboat.ranking.pairs import PairQuery, Pairs, split_points
from jollyboat.ranking.recommend import recommend
from jollyboat.store import UserError

BUSY = [
    *[(f"s{n}", f"2026-01-02 1{n}:00", "a") for n in range(4)],
    *[(f"s{n}", f"2026-01-02 1{n}:01", "b" if n else "c") for n in range(4)],
    ("s8", "2026-01-03 10:00", "a"),
    ("s8", "2026-01-03 10:05", "d"),
]
HOSTILE = ["it's", 'say "hi"', "two\nlines", "🦐", "a,b;c", "' or 1=1 --", "%40{}", "\\"]


def pairs_of(views: list, **settings) -> pd.DataFrame:
    """All pairs of these views, in a fixed order."""
    pairs = frame(shop(views, **settings), render(PAIRS, **settings))
    return pairs.sort_values(["entity_id", "point_at", "candidate_rank"], ignore_index=True)


def query(connection: duckdb.DuckDBPyConnection, folder: Path) -> PairQuery:
    """A query over the tables of a shop, in files as those of a snapshot."""
    tables = {table: f"'{folder / table}.parquet'" for table in (POPULAR, COVISITS, EVENTS)}
    for table in tables:
        connection.sql(f"from {table}").to_parquet(f"{folder / table}.parquet")
    return PairQuery(QUESTION, render(PAIRS), tables)


def made_pairs(points: int = 400, candidates: int = 8, seed: int = 0) -> Pairs:
    """Points of two sessions each; with a coupon the cheapest candidate is next, else the dearest."""
    rng = np.random.default_rng(seed)
    point = np.repeat(np.arange(points), candidates)
    price, coupon = rng.random(len(point)), np.repeat(rng.integers(0, 2, points), candidates)
    best = np.where(coupon == 1, -price, price).reshape(points, candidates).argmax(axis=1)
    place = np.tile(np.arange(candidates), points)
    rows = pd.DataFrame(
        {
            "point": point,
            "is_next": place == np.repeat(best, candidates),
            "item": [f"p{each}" for each in place],
            "covisit_score": np.where(place < 4, 1 / (1 + place), np.nan),
            "because_of": np.where(place < 4, "p9", None),
            "popularity_rank": candidates - place,
            "popularity_percentile": (candidates - 1 - place) / (candidates - 1),
            "candidate_rank": 1 + place,
            "price": price,
            "coupon": coupon,
        }
    )
    times = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(points), unit="h")
    keys = {"tenant_id": "acme", "entity_id": [f"s{each // 2}" for each in range(points)]}
    return Pairs(pd.DataFrame(keys | {"point_at": times, "item": "p0"}), rows)


def test_the_next_item_is_the_next_different_one_of_the_session():
    views = [("s", f"2026-01-02 10:0{n}", item) for n, item in enumerate("aabca")]

    points = frame(shop(views), f"from {POINTS} order by point_at")

    assert ["b", "c", "a", None] == points["item"].replace({np.nan: None}).tolist()
    assert ["10:00", "10:02", "10:03", "10:04"] == points["point_at"].dt.strftime("%H:%M").tolist()


def test_views_at_the_same_moment_are_one_point():
    views = [
        ("s", "2026-01-02 10:00", "a"),
        ("s", "2026-01-02 10:00", "b"),
        ("s", "2026-01-02 10:01", "c"),
    ]

    points = frame(shop(views), f"from {POINTS} order by point_at")

    assert ["c", None] == points["item"].replace({np.nan: None}).tolist()


def test_points_are_of_the_days_to_learn_from():
    views = [("old", "2026-01-02 10:00", "a"), ("new", "2026-01-09 10:00", "a")]

    points = frame(shop(views, learning_days=3), f"from {POINTS}")

    assert ["new"] == points["entity_id"].tolist()


def test_each_day_to_learn_from_has_a_state_of_the_day_before():
    views = [("s", f"2026-01-{day:02} 10:00", item) for day in range(1, 11) for item in "ab"]

    pairs = pairs_of(views, learning_days=5)

    assert pd.Timestamp("2026-01-06 10:00") == pairs["point_at"].min()


def test_a_session_without_a_view_gets_the_popular_items():
    home = [("s9", "2026-01-03 10:00", None, {"event_type": "page_view"})]
    connection = shop(BUSY + home)
    connection.execute(f"insert into {POINTS} values ('acme', 's9', '2026-01-03 10:00', null)")

    pairs = frame(connection, render(PAIRS))

    items = pairs[pairs["entity_id"] == "s9"].sort_values("candidate_rank")["item"].tolist()
    assert ["a", "b", "c"] == items


def test_pairs_know_nothing_of_their_own_day_and_of_later_ones():
    future = [
        ("s9", "2026-01-03 00:00", "a"),
        ("s9", "2026-01-03 00:01", "z"),
        ("s9", "2026-01-04 09:00", "d"),
    ]

    before, after = pairs_of(BUSY), pairs_of(BUSY + future)

    pd.testing.assert_frame_equal(before, after[after["entity_id"] != "s9"].reset_index(drop=True))
    assert {"b", "c"} == set(before.loc[before["point_at"] == "2026-01-03 10:00", "item"])


def test_a_late_view_counts_from_the_day_after_its_arrival():
    late = [("s7", "2026-01-02 08:00", "z", {"received_at": pd.Timestamp("2026-01-05 08:00")})]

    popular = frame(shop(BUSY + late), f"from {POPULAR} where key = 'z'")

    assert pd.Timestamp("2026-01-06") == popular["valid_from"].min()


def test_a_product_that_nobody_views_in_the_window_is_no_candidate_any_more():
    views = [*BUSY, ("s9", "2026-01-09 10:00", "a")]

    stale, kept = (pairs_of(views, window_days=days)["entity_id"].tolist() for days in (3, 20))

    assert "s9" not in stale and "s9" in kept


def test_lists_that_are_made_in_chunks_are_those_made_at_once():
    connection = shop(BUSY)
    chunks = [render(COVISITS, f"hash(earlier.item) % 2 = {chunk}") for chunk in range(2)]

    rows = frame(connection, f"({chunks[0]}) union all ({chunks[1]}) order by all")

    assert rows.equals(frame(connection, f"from {COVISITS} order by all")) and len(rows) > 5


def test_a_neighbour_weighs_by_its_distance():
    views = [("s", f"2026-01-02 10:0{n}", item) for n, item in enumerate("abc")]

    lists = frame(shop(views), f"from {COVISITS} where key = 'a' and valid_to is null")

    weights = {each["item"]: each["weight"] for each in lists["covisits"][0]}
    assert weights == pytest.approx({"b": 1, "c": 1 / 2})


def test_views_of_bots_count_for_nothing():
    bot = [("bot", f"2026-01-02 10:{n}", f"p{n}", {"device": "bot"}) for n in range(10, 50)]

    assert pairs_of(BUSY).equals(pairs_of(BUSY + bot))


def test_candidates_are_of_the_points_tenant():
    other = [("t", "2026-01-02 10:00", "secret", {"tenant_id": "globex"})]

    assert "secret" not in set(pairs_of(BUSY + other)["item"])


def test_one_point_alone_has_the_pairs_that_it_has_among_others(tmp_path):
    pairs = query(connection := shop(BUSY), tmp_path)
    points = frame(connection, f"from {POINTS}")

    together = pairs.run(points)
    alone = pairs.run(points[points["point_at"] == "2026-01-03 10:00"])

    number = together.points.index[together.points["point_at"] == "2026-01-03 10:00"][0]
    rows = together.frame[together.frame["point"] == number].assign(point=0)
    pd.testing.assert_frame_equal(rows.reset_index(drop=True), alone.frame)
    assert alone.frame["item"].tolist() == ["b", "c"]


def test_any_text_is_an_id(tmp_path):
    views = [
        (f"s'{n}", f"2026-01-02 1{n}:0{k}", item)
        for n in range(2)
        for k, item in enumerate(HOSTILE)
    ]
    connection = shop([*views, ("s 🦐", "2026-01-03 10:00", HOSTILE[0])])
    points = frame(connection, f"from {POINTS} where entity_id = 's 🦐'")

    pairs = query(connection, tmp_path).run(points)
    rows = recommend(rankers.Ranker("covisits"), pairs.frame, 20, {HOSTILE[2]})

    assert set(HOSTILE) - {HOSTILE[0], HOSTILE[2]} == set(rows["item"])
    assert rows["reason"][0] == "often viewed after it's"


def test_mrr_and_hit_rate_are_those_computed_by_hand():
    pairs = made_pairs(points=3, candidates=4)
    is_next = np.zeros((3, 4), bool)
    is_next[0, 1] = is_next[1, 3] = True  # the third point's next item is no candidate
    pairs = Pairs(pairs.points, pairs.frame.assign(is_next=is_next.ravel()))
    score = np.array([3, 2, 1, 0, 0, 1, 2, 3, 1, 1, 1, 1.0])

    gains = evaluate.gains(pairs, score, count=2)

    assert {"mrr_2": [1 / 2, 1, 0], "hit_rate_2": [1, 1, 0]} == {
        name: values.tolist() for name, values in gains.items()
    }


def test_equal_scores_keep_the_order_of_the_candidates():
    pairs = made_pairs(points=2, candidates=3)

    sorted_pairs, place = evaluate.order(pairs.frame["point"].to_numpy(), np.zeros(6))

    assert [0, 1, 2, 3, 4, 5] == sorted_pairs.tolist() and [1, 2, 3, 1, 2, 3] == place.tolist()


def test_coverage_and_the_share_of_popular_items_are_those_of_the_top_places():
    pairs = made_pairs(points=5, candidates=8)

    result = evaluate.figures(pairs, pairs.frame["popularity_rank"], 16, 20, 0, count=4)
    popular = evaluate.figures(pairs, 1 / pairs.frame["popularity_rank"], 16, 20, 0, count=1)

    assert (4 / 16, 0) == (result["coverage"], result["popular_share"])
    assert (1 / 16, 1) == (popular["coverage"], popular["popular_share"])


def test_points_of_one_session_are_no_independent_points():
    values = np.repeat(np.random.default_rng(0).integers(0, 2, 100), 20).astype(float)

    by_point = evaluate.mean(values, np.arange(2000), 200, 7)
    by_session = evaluate.mean(values, np.repeat(np.arange(100), 20), 200, 7)

    assert by_point["value"] == by_session["value"]
    assert by_session["high"] - by_session["low"] > 3 * (by_point["high"] - by_point["low"])


def test_one_session_has_no_interval():
    assert evaluate.mean(np.ones(5), np.zeros(5, int), 20, 7) == {
        "value": 1,
        "low": None,
        "high": None,
    }


def test_a_lead_is_of_pairs_so_that_equal_candidates_have_none():
    values = np.random.default_rng(0).random(50)

    assert evaluate.lead(values, values, np.arange(50), 50, 7) == {"value": 0, "low": 0, "high": 0}


def test_covisits_come_before_popular_items_and_the_popular_ones_fill_up():
    pairs = made_pairs(points=1)

    covisits = recommend(rankers.Ranker("covisits"), pairs.frame, 6)
    popularity = recommend(rankers.Ranker("popularity"), pairs.frame, 2)

    assert ["p0", "p1", "p2", "p3", "p7", "p6"] == covisits["item"].tolist()
    assert ["often viewed after p9"] * 4 + ["popular in the last days"] * 2 == covisits[
        "reason"
    ].tolist()
    assert ["p7", "p6"] == popularity["item"].tolist()
    assert {"popular in the last days"} == set(popularity["reason"])


def test_a_withdrawn_product_is_never_recommended_and_others_take_its_place():
    pairs = made_pairs(points=30)

    rows = recommend(rankers.Ranker("covisits"), pairs.frame, 3, withdrawn={"p0", "p7"})

    assert {"p1", "p2", "p3"} == set(rows["item"]) and [1, 2, 3] * 30 == rows["place"].tolist()


def test_trees_learn_that_a_coupon_changes_what_is_liked():
    train, validation, holdout = (made_pairs(seed=seed) for seed in range(3))

    ranker = rankers.fit("xgboost", train, validation, {"seed": 7, "n_estimators": 60})

    places = evaluate.gains(holdout, ranker.score(holdout.frame))["mrr_20"]
    assert places.mean() > 0.85


def test_a_saved_ranker_gives_the_same_scores_and_the_same_bytes(tmp_path):
    pairs = made_pairs()
    settings = {"seed": 7, "n_estimators": 5}

    for name in ("one", "two"):
        ranker = rankers.fit("xgboost", pairs, pairs, settings)
        (tmp_path / name).mkdir()
        ranker.save(tmp_path / name)

    assert (
        rankers.load(tmp_path / "one").score(pairs.frame).tolist()
        == ranker.score(pairs.frame).tolist()
    )
    for file in ("ranker.json", "model.ubj"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_parts_are_whole_days_in_order_of_time_and_have_a_next_item():
    times = pd.date_range("2026-01-01", periods=2000, freq="13min")
    points = pd.DataFrame({"tenant_id": "acme", "entity_id": "s", "point_at": times, "item": "p"})
    points.loc[::10, "item"] = None

    parts = split_points(points, 0.6, 0.2, most=300, seed=7)

    days = {name: part["point_at"].dt.date for name, part in parts.items()}
    assert days["train"].max() < days["validation"].min()
    assert days["validation"].max() < days["holdout"].min()
    assert all(len(part) == 300 and part["item"].notna().all() for part in parts.values())


def test_the_same_points_in_another_order_are_split_alike():
    times = pd.date_range("2026-01-01", periods=2000, freq="13min")
    points = pd.DataFrame({"tenant_id": "acme", "entity_id": "s", "point_at": times, "item": "p"})

    one, two = (split_points(each, 0.6, 0.2, 100, seed=7) for each in (points, points[::-1]))

    assert all(one[name].equals(two[name]) for name in one)


def test_too_few_points_are_refused_with_their_number():
    points = made_pairs(points=20).points

    with pytest.raises(UserError, match=r"train part has 20.*make data"):
        split_points(points, 0.6, 0.2, most=300, seed=7)


def test_trees_without_a_right_candidate_are_refused():
    pairs = made_pairs(points=5)
    never = Pairs(pairs.points, pairs.frame.assign(is_next=False))

    with pytest.raises(UserError, match="make data"):
        rankers.fit("xgboost", pairs, never, {"seed": 7})


@pytest.mark.parametrize("name", rankers.CANDIDATES)
def test_no_candidate_is_no_recommendation(name):
    pairs = made_pairs(points=50)
    ranker = rankers.fit(name, pairs, pairs, {"seed": 7, "n_estimators": 2})

    assert recommend(ranker, pairs.frame, 3, withdrawn=set(pairs.frame["item"])).empty
