"""Every figure under integer weights of the rows, so that a bootstrap resample is one row of a matrix of weights.

Rows are sorted by probability once; a resample then costs a cumulative sum and a product with a fixed matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10
TOP = 0.1


@dataclass(frozen=True)
class Ranking:
    """Rows from the highest probability down, ties in one group; scores the order under rows of sorted weights."""

    order: np.ndarray
    positives: np.ndarray  # places of the positives, sorted
    ends: np.ndarray  # the last place of each group
    counted: np.ndarray  # how many positives stand at or before each group's end
    own: np.ndarray  # the groups that hold a positive

    @classmethod
    def of(cls, label: np.ndarray, probability: np.ndarray) -> Ranking:
        """The ranking of these rows."""
        order = np.argsort(-probability, kind="stable")
        ends = np.flatnonzero(np.r_[np.diff(probability[order]) != 0, len(order) > 0])
        counted = np.cumsum(label[order])[ends].astype(int)
        own = np.flatnonzero(np.diff(counted, prepend=0))
        return cls(order, np.flatnonzero(label[order]), ends, counted, own)

    def sums(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cumulated weights of all rows, and of the positives with a leading 0."""
        hits = np.cumsum(weights[:, self.positives], axis=1)
        return np.cumsum(weights, axis=1), np.pad(hits, ((0, 0), (1, 0)))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision under each row of sorted weights."""
        return self.scores(*self.sums(weights))[0]

    def scores(self, rows: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and ROC AUC. Only groups with a positive in them move either."""
        at = self.ends[self.own]
        hit, seen = hits[:, self.counted[self.own]], rows[:, at]
        gained = np.diff(hit, axis=1, prepend=0)
        total = hits[:, -1]
        before = np.where(self.own > 0, rows[:, self.ends[self.own - 1]], 0)
        missed, missed_before = seen - hit, before - (hit - gained)
        negatives = rows[:, -1] - total
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(seen > 0, hit / seen, 0)
            above = negatives[:, None] - (missed + missed_before) / 2
            return (gained * precision).sum(axis=1) / total, (gained * above).sum(axis=1) / (total * negatives)

    def lift(self, rows: np.ndarray, hits: np.ndarray) -> np.ndarray:
        """Rate among the first tenth of the weight over the overall rate; the group on the border is shared out."""
        total = rows[:, -1]
        border = np.array([np.searchsorted(some, TOP * some[-1]) for some in rows[:, self.ends]])
        line = np.arange(len(rows))
        after, hits_after = rows[line, self.ends[border]], hits[line, self.counted[border]]
        before = np.where(border > 0, rows[line, self.ends[border - 1]], 0)
        hits_before = np.where(border > 0, hits[line, self.counted[border - 1]], 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (TOP * total - before) / (after - before)
            found = hits_before + share * (hits_after - hits_before)
            return (found / (TOP * total)) / (hits[:, -1] / total)


@dataclass(frozen=True)
class Figures:
    """All figures under rows of weights; `columns` (sorted rows by sums) is all that a resample multiplies."""

    ranking: Ranking
    columns: np.ndarray
    fit: np.ndarray | None  # intercept and calibration slope, where there is one
    value_of_hit: float
    cost_of_alarm: float

    @classmethod
    def of(cls, label: np.ndarray, probability: np.ndarray, threshold: float, hit: float, alarm: float) -> Figures:
        """The figures of these rows at a threshold, with the value of a hit and the cost of a false alarm."""
        ranking = Ranking.of(label, probability)
        y, p = label[ranking.order].astype(float), probability[ranking.order]
        kept = np.clip(p, np.finfo(float).eps, 1 - np.finfo(float).eps)
        bins = (quantile_bins(p)[:, None] == np.arange(BINS)[None, :]).astype(float)
        alarmed = (p >= threshold).astype(float)
        log_odds = np.log(kept / (1 - kept))
        fit = _calibration_fit(y, log_odds)
        columns = [
            np.column_stack([y, alarmed, alarmed * y, (p - y) ** 2, -np.where(y > 0, np.log(kept), np.log1p(-kept))]),
            bins * (y - p)[:, None],
            _newton_columns(y, log_odds, fit) if fit is not None else np.empty((len(y), 0)),
        ]
        return cls(ranking, np.hstack(columns), fit, hit, alarm)

    def under(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each figure for each row of weights (in the rows' own order); NaN where undefined."""
        weights = weights[:, self.ranking.order]
        rows, hits = self.ranking.sums(weights)
        sums = weights @ self.columns
        total = weights.sum(axis=1)
        positives, alarms, hit, brier, loss = sums[:, :5].T
        precision, auc = self.ranking.scores(rows, hits)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "average_precision": precision,
                "roc_auc": auc,
                "log_loss": loss / total,
                "brier": brier / total,
                "calibration_error": np.abs(sums[:, 5 : 5 + BINS]).sum(axis=1) / total,
                "calibration_slope": _stepped(self.fit, sums[:, 5 + BINS :]),
                "lift_top_decile": self.ranking.lift(rows, hits),
                "precision": hit / alarms,
                "recall": hit / positives,
                "expected_value_per_1000": (self.value_of_hit * hit - self.cost_of_alarm * (alarms - hit))
                / total
                * 1000,
            }


def quantile_bins(probability: np.ndarray) -> np.ndarray:
    """Each row's bin of ten that hold equally many rows; equal probabilities share a bin."""
    edges = np.quantile(probability, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, probability, side="left")


def _calibration_fit(y: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    """Intercept and slope of a logistic regression of y on x by Newton's method; None where there is no finite one."""
    if y.min() == y.max() or x.min() == x.max():
        return None
    fit = np.array([np.log(y.mean() / (1 - y.mean())), 0.0])
    for _ in range(50):
        step = _newton_step(_newton_columns(y, x, fit).sum(axis=0)[None, :])[0]
        fit = fit + np.clip(step, -2, 2)
        if not np.isfinite(fit).all() or np.abs(fit[1]) > 100:
            return None
        if np.abs(step).max() < 1e-9:
            return fit
    return None


def _newton_columns(y: np.ndarray, x: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Each row's share of the gradient (two columns) and of the curvature (three) of the log-likelihood at `fit`."""
    mean = 1 / (1 + np.exp(-np.clip(fit[0] + fit[1] * x, -500, 500)))
    spread = mean * (1 - mean)
    return np.column_stack([y - mean, (y - mean) * x, spread, spread * x, spread * x * x])


def _newton_step(sums: np.ndarray) -> np.ndarray:
    constant, slope, both_constant, mixed, both_slope = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = both_constant * both_slope - mixed**2
        steps = [both_slope * constant - mixed * slope, both_constant * slope - mixed * constant]
        return np.column_stack(steps) / determinant[:, None]


def _stepped(fit: np.ndarray | None, sums: np.ndarray) -> np.ndarray:
    return np.full(len(sums), np.nan) if fit is None else fit[1] + _newton_step(sums)[:, 1]
