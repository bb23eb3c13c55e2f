"""What acting at each threshold brings: the figures behind the slider of a run's page."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

STEPS = 50


def cuts(
    label: np.ndarray, probability: np.ndarray, threshold: float, decision: Mapping, days: float
) -> list[dict[str, float | None]]:
    """For about a hundred thresholds, the lowest first, what `probability >= threshold` decides.

    Half of them are at even steps of the probability, half at even shares of the rows; `threshold`
    is one of them. `decision` is the section [decision]. `days` is how long the rows took; the
    precision of no alarm is None.
    """
    label, probability = np.asarray(label) > 0, np.asarray(probability, dtype=float)
    steps = np.linspace(0, probability.max(), STEPS)
    shares = np.quantile(probability, np.linspace(0, 1, STEPS))
    at = np.unique(np.r_[steps, shares, threshold])
    hits, alarms = (
        len(values) - np.searchsorted(np.sort(values), at)
        for values in (probability[label], probability)
    )
    false, rows, positives = alarms - hits, len(label), int(label.sum())
    value = hits * decision["value_of_hit"] - false * decision["cost_of_alarm"]
    columns = {
        "threshold": at,
        "hits": hits,
        "false_alarms": false,
        "misses": positives - hits,
        "quiet": rows - positives - false,
        "precision": np.where(alarms > 0, hits / np.maximum(alarms, 1), np.nan),
        "recall": hits / positives if positives else np.full(len(at), np.nan),
        "alarms_per_day": alarms / days,
        "value_per_1000": 1000 * value / rows,
    }
    table = pd.DataFrame(columns).astype(object)
    return table.where(table.notna(), None).to_dict("records")
