"""Sessions made up for the tests of ml/: a known signal, every kind of column, nulls."""

import numpy as np
import pandas as pd

from jollyboat.training.split import Part, Split, by_time

SETTINGS = {"seed": 7}


def sessions(rows: int = 2000, seed: int = 0) -> pd.DataFrame:
    """A frame like session_features, every row with status 'train'."""
    rng = np.random.default_rng(seed)
    cart = rng.poisson(0.6, rows)
    seconds = rng.lognormal(4, 1, rows)
    past_rate = np.where(rng.random(rows) < 0.4, np.nan, rng.random(rows))
    channel = rng.choice(["ads", "mail", "search"], rows, p=[0.5, 0.2, 0.3])
    log_odds = (
        -3.2
        + 0.9 * cart
        + 0.5 * np.log(seconds / 50)
        + 1.2 * np.nan_to_num(past_rate)
        + 1.1 * (channel == "mail")
    )
    return pd.DataFrame(
        {
            "tenant_id": rng.choice(["acme", "bolt", "tiny"], rows, p=[0.6, 0.38, 0.02]),
            "entity_id": [f"s{place}" for place in range(rows)],
            "point_at": pd.Timestamp("2026-01-01")
            + pd.to_timedelta(np.sort(rng.integers(0, 20 * 86400, rows)), unit="s"),
            "status": "train",
            "label": rng.random(rows) < 1 / (1 + np.exp(-log_odds)),
            "cart_add_count": cart,
            "product_view_count": rng.poisson(3, rows),
            "seconds_so_far": seconds,
            "visitor_past_rate": past_rate,
            "is_known_visitor": np.where(rng.random(rows) < 0.1, None, rng.random(rows) < 0.5),
            "channel": np.where(rng.random(rows) < 0.1, None, channel),
            "never_known_number": np.full(rows, np.nan),
            "never_known_text": pd.Series([None] * rows, dtype="str"),
            "always_one": 1,
        }
    )


def split(rows: int = 2000, seed: int = 0) -> Split:
    """Those sessions in three parts."""
    return by_time(sessions(rows, seed), 0.6, 0.2)


def part(features: pd.DataFrame, label: np.ndarray) -> Part:
    """A part of these features and labels, a minute between rows."""
    times = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(len(label)), unit="min")
    keys = pd.DataFrame(
        {"tenant_id": "acme", "entity_id": [f"s{n}" for n in range(len(label))], "point_at": times}
    )
    return Part(keys, features, label)
