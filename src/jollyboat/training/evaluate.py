"""How good a set of probabilities is, and how sure we are of it.

What is undefined, as with one class only, is None. Intervals hold 95 % of the bootstrap's resamples (Efron, 1979).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

BINS = 10
TOP = 0.1
MOST_POINTS = 200
STEEPEST = (
    100.0  # a calibration slope beyond it means that the classes lie apart, where none is finite
)

Array = np.ndarray
Interval = dict[str, float | None]
Figures = Callable[
    [Array], dict[str, float]
]  # from how often each row counts to every figure by its name


def metrics(
    label: Array,
    probability: Array,
    threshold: float,
    value_of_hit: float,
    cost_of_alarm: float,
    resamples: int,
    seed: int,
    groups: Array | None = None,
) -> dict[str, Interval]:
    """Each figure by name as {"value", "low", "high"}, resampled by group (say, person) when given, else by row.

    - average_precision: Σ (Rₙ - Rₙ₋₁) Pₙ over distinct probabilities (Manning et al., 2008, ch. 8; scikit-learn's).
    - roc_auc: the chance that a positive ranks above a negative, ties half (Hanley and McNeil, 1982).
    - log_loss (Good, 1952), brier (Brier, 1950): mean over rows; probabilities are kept off 0 and 1 by 2e-16.
    - calibration_error: mean gap of rate and probability over ten bins of equally many rows (Naeini et al., 2015, with
      the bins of Nguyen and O'Connor, 2015). Resampling adds noise to every gap, so its interval lies high.
    - calibration_slope: of the label on the probability's log-odds (Cox, 1958); 1 is right, below 1 too sure. In
      resamples each row moves it by its influence (the infinitesimal jackknife, Jaeckel, 1972).
    - lift_top_decile: rate among the tenth with the highest probabilities over the overall rate; ties are shared out.
    - precision, recall: of the decision `probability >= threshold`.
    - expected_value_per_1000: hits times their value less false alarms times their cost, per 1,000 rows.
    """
    ranking = Ranking.of(label, probability, groups)
    return _intervals(
        _figures(ranking, threshold, value_of_hit, cost_of_alarm), ranking, resamples, seed
    )


def difference(
    label: Array, a: Array, b: Array, resamples: int, seed: int, groups: Array | None = None
) -> Interval:
    """Average precision of `a` less that of `b` on the same rows, by a paired bootstrap: {"value", "low", "high"}."""
    first, second = Ranking.of(label, a, groups), Ranking.of(label, b, groups)

    def lead(times: Array) -> dict[str, float]:
        return {"lead": first.average_precision(times) - second.average_precision(times)}

    return _intervals(lead, first, resamples, seed)["lead"]


def log_loss(label: Array, probability: Array) -> float:
    """The mean log loss of these probabilities, kept off 0 and 1."""
    kept = np.clip(probability, np.finfo(float).eps, 1 - np.finfo(float).eps)
    return float(-np.where(np.asarray(label) > 0, np.log(kept), np.log1p(-kept)).mean())


def calibration_chance(probability: Array, seed: int, draws: int = 200) -> float:
    """What the calibration error of these probabilities stays below 95 times of 100 where each of them is right.

    With few rows a perfect model's is far from 0: 0.06 at 563 rows.
    """
    probability = np.asarray(probability, dtype=float)
    bins, rng = _quantile_bins(probability), np.random.default_rng(seed)
    gaps = ((rng.random(len(probability)) < probability) - probability for _ in range(draws))
    return float(
        np.quantile([np.abs(np.bincount(bins, gap)).sum() / len(bins) for gap in gaps], 0.95)
    )


def curves(label: Array, probability: Array) -> dict[str, list[dict[str, float]]]:
    """Points to draw, at most 200 a curve: precision_recall, calibration (ten bins, with their rows) and gains.

    Gains: share of the positives among a share of the rows, the highest probabilities first.
    """
    ranking = Ranking.of(label, probability)
    drawn = {"precision_recall": [], "calibration": _calibration_points(ranking), "gains": []}
    if not ranking.label.any():
        return drawn
    ends = np.flatnonzero(np.diff(ranking.probability, append=-1))
    rows, hits = np.r_[0, ends + 1], np.r_[0, np.cumsum(ranking.label)[ends]]
    kept = np.unique(np.linspace(1, len(rows) - 1, MOST_POINTS - 1).round().astype(int))
    cuts = pd.DataFrame(
        {"rows": rows, "hits": hits, "threshold": np.r_[np.nan, ranking.probability[ends]]}
    )
    cuts = cuts.assign(recall=cuts["hits"] / hits[-1], precision=cuts["hits"] / cuts["rows"])
    gains = cuts.assign(rows=cuts["rows"] / rows[-1], positives=cuts["recall"])[
        ["rows", "positives"]
    ]
    drawn["precision_recall"] = (
        cuts[["recall", "precision", "threshold"]].iloc[kept].to_dict("records")
    )
    drawn["gains"] = gains.iloc[np.r_[0, kept]].to_dict("records")
    return drawn


@dataclass(frozen=True)
class Ranking:
    """Rows from the highest probability down. Sorted once; a resample is then how often each unit counts."""

    label: Array
    probability: Array
    unit: Array  # of each row, the person or else the row as it came
    hits: Array  # the places of the positives
    first: Array  # of each run of equal probabilities that holds positives: the first of them, as its place in `hits`,
    above: Array  # how many rows stand above the run,
    until: Array  # and how many to its end

    @classmethod
    def of(cls, label: Array, probability: Array, groups: Array | None = None) -> Self:
        """The ranking of these rows; refuses what is no probability."""
        label, probability = np.asarray(label).astype(float), np.asarray(probability, dtype=float)
        if label.shape != probability.shape or not ((probability >= 0) & (probability <= 1)).all():
            raise ValueError(
                "Each row needs a probability from 0 to 1: look at the candidate's predict_proba."
            )
        order = np.argsort(-probability, kind="stable")
        unit = (
            order
            if groups is None
            else pd.factorize(np.asarray(groups), use_na_sentinel=False)[0][order]
        )
        ends = np.flatnonzero(np.diff(probability[order], append=-1)) + 1
        hits = np.flatnonzero(label[order])
        runs, first = np.unique(np.searchsorted(ends, hits, side="right"), return_index=True)
        return cls(
            label[order], probability[order], unit, hits, first, np.r_[0, ends][runs], ends[runs]
        )

    def count(self, weights: Array) -> tuple[Array, Array]:
        """Of ranked weights: how many rows stand above each place, and how many positives each run holds."""
        rows = np.zeros(len(weights) + 1)
        np.cumsum(weights, out=rows[1:])
        return rows, np.add.reduceat(weights[self.hits], self.first)

    def average_precision(self, times: Array) -> float:
        """Average precision where each unit counts so many times."""
        return self.precision_over(*self.count(times[self.unit]))

    def precision_over(self, rows: Array, gained: Array) -> float:
        """Average precision of what `count` found; NaN without a positive."""
        with np.errstate(invalid="ignore"):
            return (
                gained * np.cumsum(gained) / np.maximum(rows[self.until], 1)
            ).sum() / gained.sum()


def _figures(
    ranking: Ranking, threshold: float, value_of_hit: float, cost_of_alarm: float
) -> Figures:
    """What computes every figure; all that does not depend on how often rows count is done before."""
    y, p = ranking.label, ranking.probability
    kept = np.clip(p, np.finfo(float).eps, 1 - np.finfo(float).eps)
    alarmed = int((p >= threshold).sum())  # rows, which stand first
    hits_alarmed = ranking.hits[: np.searchsorted(ranking.hits, alarmed)]
    bins, gap = (
        np.flatnonzero(np.diff(_quantile_bins(p), prepend=-1)),
        y - p,
    )  # bins are runs of ranked rows
    slope, influence = _calibration_slope(y, np.log(kept / (1 - kept)))
    summed = np.stack([-np.where(y > 0, np.log(kept), np.log1p(-kept)), gap**2, influence])

    def figures(times: Array) -> dict[str, float]:
        weights = times[ranking.unit]
        rows, gained = ranking.count(weights)
        above, until, hits = rows[ranking.above], rows[ranking.until], np.cumsum(gained)
        n, positives, alarms, right = (
            rows[-1],
            gained.sum(),
            rows[alarmed],
            weights[hits_alarmed].sum(),
        )
        negatives_above = (above + until) / 2 - hits + gained / 2  # each run's own half
        steps = (
            np.stack([above, until], axis=1).ravel(),
            np.stack([hits - gained, hits], axis=1).ravel(),
        )
        # not `@`: it starts threads, and waits for them on a busy machine
        log_loss, brier, slope_moved = np.einsum("ij,j->i", summed, weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "average_precision": ranking.precision_over(rows, gained),
                "roc_auc": 1 - (gained * negatives_above).sum() / (positives * (n - positives)),
                "log_loss": log_loss / n,
                "brier": brier / n,
                "calibration_error": np.abs(np.add.reduceat(weights * gap, bins)).sum() / n,
                "calibration_slope": slope + slope_moved,
                "lift_top_decile": np.interp(TOP * n, *steps) / (TOP * positives)
                if positives
                else np.nan,
                "precision": right / alarms,
                "recall": right / positives,
                "expected_value_per_1000": 1000
                * (value_of_hit * right - cost_of_alarm * (alarms - right))
                / n,
            }

    return figures


def _calibration_slope(y: Array, log_odds: Array) -> tuple[float, Array]:
    """The slope (NaN where none is finite) and by how much each row moves it."""
    from sklearn.linear_model import (
        LogisticRegression,  # not at the top: a deployment compares without it
    )

    if y.min() == y.max() or log_odds.min() == log_odds.max():
        return np.nan, np.zeros(len(y))
    fit = LogisticRegression(C=np.inf, tol=1e-8, solver="newton-cholesky").fit(log_odds[:, None], y)
    mean, slope = fit.predict_proba(log_odds[:, None])[:, 1], fit.coef_[0, 0]
    inputs = np.column_stack([np.ones(len(y)), log_odds])
    curvature = inputs.T @ (inputs * (mean * (1 - mean))[:, None])
    return slope if slope < STEEPEST else np.nan, inputs @ np.linalg.pinv(curvature)[1] * (y - mean)


def _intervals(
    figures: Figures, ranking: Ranking, resamples: int, seed: int
) -> dict[str, Interval]:
    units, rng, drawn = int(ranking.unit.max()) + 1, np.random.default_rng(seed), []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, units, units, dtype=np.int32), minlength=units)
        drawn.append(figures(times.astype(float)))
    whole = figures(np.ones(units))
    return {
        name: _interval(value, np.array([each[name] for each in drawn]))
        for name, value in whole.items()
    }


def _interval(value: float, drawn: Array) -> Interval:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    known = drawn[np.isfinite(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else (None, None)
    return {"value": float(value), "low": low, "high": high}


def _quantile_bins(probability: Array) -> Array:
    """Each row's bin of ten that hold equally many rows; equal probabilities share a bin."""
    return np.searchsorted(np.quantile(probability, np.arange(1, BINS) / BINS), probability)


def _calibration_points(ranking: Ranking) -> list[dict[str, float]]:
    """Rate against mean probability per bin, the rate with its interval (Wilson, 1927)."""
    rows = pd.DataFrame({"rate": ranking.label, "mean_probability": ranking.probability})
    bins = rows.groupby(_quantile_bins(ranking.probability))
    points, z = bins.mean().assign(rows=bins.size()), 1.96
    rate, shrunk = points["rate"], 1 + z * z / points["rows"]
    middle = (rate + z * z / (2 * points["rows"])) / shrunk
    half = (
        z / shrunk * np.sqrt(rate * (1 - rate) / points["rows"] + (z / (2 * points["rows"])) ** 2)
    )
    return points.assign(
        low=(middle - half).clip(lower=0), high=(middle + half).clip(upper=1)
    ).to_dict("records")
