"""How good a set of probabilities is, and how sure we are of it.

What is undefined, as with one class only, is None. Intervals hold 95 % of the bootstrap's resamples (Efron, 1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ml.scores import Figures, Ranking, quantile_bins

CELLS = 1_000_000  # of the matrix of weights at a time: 8 MB stay in the cache
FEW_POSITIVES = 20  # with fewer, average precision of one model moves by 0.1 from sample to sample
MOST_POINTS = 200
MOST_VALUES = 50

Interval = dict[str, float | None]


def metrics(
    label: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    value_of_hit: float,
    cost_of_alarm: float,
    resamples: int,
    seed: int,
    groups: Sequence | np.ndarray | None = None,
) -> dict[str, Interval]:
    """Each figure by name as {"value", "low", "high"}, resampled by group (say, person) when given, else by row.

    - average_precision: Σ (Rₙ - Rₙ₋₁) Pₙ over distinct probabilities (Manning et al., 2008, ch. 8; scikit-learn's).
    - roc_auc: the chance that a positive ranks above a negative, ties half (Hanley and McNeil, 1982).
    - log_loss (Good, 1952), brier (Brier, 1950): mean over rows; probabilities are kept off 0 and 1 by 2e-16.
    - calibration_error: mean gap of rate and probability over ten bins of equally many rows (Naeini et al., 2015, with
      the bins of Nguyen and O'Connor, 2015). Resampling adds noise to every gap, so its interval lies high.
    - calibration_slope: of the label on the probability's log-odds (Cox, 1958); 1 is right, below 1 too sure. Resamples
      take one Newton step from the whole sample's fit (Davidson and MacKinnon, 1999).
    - lift_top_decile: rate among the tenth with the highest probabilities over the overall rate; ties are shared out.
    - precision, recall: of the decision `probability >= threshold`.
    - expected_value_per_1000: hits times their value less false alarms times their cost, per 1,000 rows.
    """
    label, probability = _checked(label, probability)
    figures = Figures.of(label, probability, threshold, value_of_hit, cost_of_alarm)
    whole = figures.under(np.ones((1, len(label))))
    drawn = [figures.under(weights) for weights in _resamples(len(label), resamples, seed, groups)]
    return {
        name: _interval(value[0], np.concatenate([some[name] for some in drawn]) if drawn else np.empty(0))
        for name, value in whole.items()
    }


def difference(
    label: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    resamples: int,
    seed: int,
    groups: Sequence | np.ndarray | None = None,
) -> Interval:
    """Average precision of `a` less that of `b` on the same rows, by a paired bootstrap: {"value", "low", "high"}."""
    label, a = _checked(label, a)
    _, b = _checked(label, b)
    first, second = Ranking.of(label, a), Ranking.of(label, b)

    def gap(weights: np.ndarray) -> np.ndarray:
        return first.average_precision(weights[:, first.order]) - second.average_precision(weights[:, second.order])

    whole = gap(np.ones((1, len(label))))[0]
    drawn = [gap(weights) for weights in _resamples(len(label), resamples, seed, groups)]
    return _interval(whole, np.concatenate(drawn) if drawn else np.empty(0))


def by_slice(
    slices: pd.DataFrame,
    label: np.ndarray,
    probability: np.ndarray,
    few_positives: int = FEW_POSITIVES,
    most_values: int = MOST_VALUES,
) -> list[dict[str, Any]]:
    """One entry per value of each column of `slices`, the largest first.

    Each has slice, value, rows, positives, rate, mean_probability, average_precision and too_small, which says that
    there are too few positives (or negatives) to judge by. Only a column's `most_values` largest are judged.
    """
    label, probability = _checked(label, probability)
    entries = []
    for name in slices.columns:
        texts = slices[name].astype(object).where(slices[name].notna(), "(unknown)").astype(str).to_numpy()
        for value in pd.Series(texts).value_counts(sort=True).index[:most_values]:
            rows = texts == value
            entries.append({"slice": name, "value": value} | _slice(label[rows], probability[rows], few_positives))
    return entries


def curves(label: np.ndarray, probability: np.ndarray) -> dict[str, list[dict[str, float]]]:
    """Points to draw, at most 200 a curve: precision_recall, calibration (ten bins, with their rows) and gains.

    Gains: share of the positives among a share of the rows, the highest probabilities first.
    """
    label, probability = _checked(label, probability)
    if not label.any():
        return {"precision_recall": [], "calibration": _calibration_points(label, probability), "gains": []}
    ranking = Ranking.of(label, probability)
    ends = ranking.ends
    hits = np.cumsum(label[ranking.order])[ends]
    rows, threshold = ends + 1, probability[ranking.order][ends]
    kept = _thinned(len(ends))
    return {
        "precision_recall": [
            {"recall": float(h / label.sum()), "precision": float(h / n), "threshold": float(t)}
            for h, n, t in zip(hits[kept], rows[kept], threshold[kept], strict=True)
        ],
        "calibration": _calibration_points(label, probability),
        "gains": [
            {"rows": float(n / len(label)), "positives": float(h / label.sum())}
            for h, n in zip(np.r_[0, hits[kept]], np.r_[0, rows[kept]], strict=True)
        ],
    }


def _checked(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label, probability = np.asarray(label).astype(int), np.asarray(probability, dtype=float)
    if not len(label) or len(label) != len(probability):
        raise ValueError(
            f"There are {len(label)} labels and {len(probability)} probabilities: one of each per row is needed."
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("A probability is null or outside 0 to 1: look at the candidate's predict_proba.")
    return label, probability


def _resamples(rows: int, resamples: int, seed: int, groups: Sequence | np.ndarray | None) -> Iterator[np.ndarray]:
    """How often each row was drawn, some resamples at a time; the draws do not depend on how many those are."""
    member = None if groups is None else pd.factorize(np.asarray(groups), use_na_sentinel=False)[0]
    units = rows if member is None else int(member.max()) + 1
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS // rows)
    for start in range(0, resamples, at_once):
        weights = np.empty((min(at_once, resamples - start), rows))
        for line in weights:
            drawn = np.bincount(rng.integers(0, units, units, dtype=np.int32), minlength=units)
            line[:] = drawn if member is None else drawn[member]
        yield weights


def _interval(value: float, drawn: np.ndarray) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    low, high = (float(edge) for edge in np.quantile(known, [0.025, 0.975])) if len(known) else (None, None)
    return {"value": float(value), "low": low, "high": high}


def _slice(label: np.ndarray, probability: np.ndarray, few_positives: int) -> dict[str, Any]:
    positives = int(label.sum())
    ranking = Ranking.of(label, probability)
    precision = float(ranking.average_precision(np.ones((1, len(label))))[0]) if positives else None
    return {
        "rows": len(label),
        "positives": positives,
        "rate": float(label.mean()),
        "mean_probability": float(probability.mean()),
        "average_precision": precision,
        "too_small": min(positives, len(label) - positives) < few_positives,
    }


def _thinned(points: int) -> np.ndarray:
    return np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS - 1)).round().astype(int))


def _calibration_points(label: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Rate against mean probability per bin, the rate with its interval (Wilson, 1927)."""
    bins, points, z = quantile_bins(probability), [], 1.96
    for place in np.unique(bins):
        rows = bins == place
        count, rate = int(rows.sum()), float(label[rows].mean())
        middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
        points.append(
            {
                "mean_probability": float(probability[rows].mean()),
                "rate": rate,
                "low": max(0.0, float(middle - half)),
                "high": min(1.0, float(middle + half)),
                "rows": count,
            }
        )
    return points
