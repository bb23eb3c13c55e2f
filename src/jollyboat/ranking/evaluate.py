"""How well a ranking question's candidates rank, with intervals that resample whole sessions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from jollyboat.ranking.pairs import KEYS, Pairs

COUNT = 20
TOP_TENTH = 0.1
Interval = dict[str, float | None]


def order(point: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs sorted by point and falling score, and the place of each, from 1.

    Equal scores keep their order.
    """
    sorted_pairs = np.lexsort((-score, point))
    first = np.searchsorted(point, point)  # of the pair's point, for the pairs are sorted by it
    place = np.arange(len(point)) - first + 1
    return sorted_pairs, place


def gains(pairs: Pairs, score: np.ndarray, count: int = COUNT) -> dict[str, np.ndarray]:
    """Each point's reciprocal place of the next item and whether it is hit, within `count`.

    A next item outside the candidates is a miss.
    """
    point, is_next = (pairs.frame[name].to_numpy() for name in ("point", "is_next"))
    sorted_pairs, place = order(point, score)
    rows = is_next[sorted_pairs] & (place <= count)
    reciprocal = np.zeros(len(pairs.points))
    reciprocal[point[rows]] = 1 / place[rows]
    return {f"mrr_{count}": reciprocal, f"hit_rate_{count}": (reciprocal > 0).astype(float)}


def figures(
    pairs: Pairs, score: np.ndarray, catalogue: int, resamples: int, seed: int, count: int = COUNT
) -> Mapping[str, Interval | float]:
    """MRR (Voorhees, 1999) and hit rate within `count`, and what is recommended.

    coverage is the share of `catalogue` items in some top `count`; popular_share the share of the
    most popular tenth of items among these places.
    """
    sessions = number_sessions(pairs.points)
    values = gains(pairs, score, count)
    sorted_pairs, place = order(pairs.frame["point"].to_numpy(), score)
    top = pairs.frame.iloc[sorted_pairs[place <= count]]
    tenant = pairs.points["tenant_id"].to_numpy()[top["point"]]
    items = len(top[["item"]].assign(tenant=tenant).drop_duplicates())
    return {name: mean(each, sessions, resamples, seed) for name, each in values.items()} | {
        "coverage": items / catalogue,
        "popular_share": float((top["popularity_percentile"] <= TOP_TENTH).mean()),
    }


def lead(a: np.ndarray, b: np.ndarray, sessions: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean of `a` less that of `b` on the same points, with the interval of the difference."""
    return mean(a - b, sessions, resamples, seed)


def mean(values: np.ndarray, sessions: np.ndarray, resamples: int, seed: int) -> Interval:
    """The mean over points with its 95 % interval, by a bootstrap of sessions (Efron, 1979)."""
    from scipy.stats import bootstrap  # here: a server does not need it

    sums, counts = np.bincount(sessions, values), np.bincount(sessions)
    value = float(values.mean())
    if len(counts) < 2:
        return {"value": value, "low": None, "high": None}
    result = bootstrap(
        (sums, counts),
        lambda total, number, axis: total.sum(axis=axis) / number.sum(axis=axis),
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(counts)),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return {"value": value, "low": float(low), "high": float(high)}


def number_sessions(points: pd.DataFrame) -> np.ndarray:
    """A number for each point's session, from 0."""
    return points.groupby(KEYS[:2], sort=False).ngroup().to_numpy()
