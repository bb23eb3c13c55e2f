"""Drift: whether live features still look like training's, day by day, and when incidents opened.

Each day's rows are counted into bins of the training rows: tenths for numbers, values for
categories, null apart. A window of days drifts if two conditions hold. Its population stability
index, less the index by chance, is above the limit. A chi-square test of the same counts,
corrected for all tests of that day, is significant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2, false_discovery_control

from jollyboat.snapshots.stability import stability_index, stability_terms
from jollyboat.training.schema import Feature

BINS, RARE, FEW_ROWS = 10, 0.01, 100
SEASON_DAYS = 3  # an incident of so many days that ends by itself is a season; it raises the limit
SEASON_MARGIN = 1.25  # times the largest swing so far is the limit
END_SHARE = 0.8  # of the limit, below which an incident ends
CONSTANT = 0.995  # share of one bin on a training day that makes a constant feature normal

Array = np.ndarray


@dataclass(frozen=True)
class Group:
    """Rows to compare: a column `day` (a growing whole number), other columns are features."""

    tenant: str
    reference: pd.DataFrame
    live: pd.DataFrame


@dataclass(frozen=True)
class Series:
    """One feature of one group in windows of days: a figure per live day, NaN with few rows."""

    tenant: str
    feature: str
    window: int
    psi: Array
    p: Array
    is_broken: Array
    training_swing: float  # the largest index of a window of training days against the others
    moved: str
    state: dict[str, Array] = field(default_factory=dict)  # limit, is_open

    @property
    def is_open(self) -> bool:
        """Whether an incident is open on the newest day."""
        return bool(self.state["is_open"][-1])


def watch(groups: Sequence[Group], days: Sequence[int], limits: Mapping[str, Any]) -> list[Series]:
    """Every feature of every group over the live `days`, oldest first; `limits` is [monitor].

    A day's result depends only on it and earlier days: daily looks and one look after a month give
    the same incidents. The correction is Benjamini and Hochberg's (1995).
    """
    series = [one for group in groups for one in _series_of(group, list(days), limits)]
    if not series or not len(days):
        return []
    p = np.array([one.p for one in series])
    tested, corrected = np.isfinite(p), np.ones_like(p)
    for day in range(len(days)):
        if tested[:, day].any():
            corrected[tested[:, day], day] = false_discovery_control(p[tested[:, day], day])
    psi, is_broken = np.array([s.psi for s in series]), np.array([s.is_broken for s in series])
    swing = np.array([one.training_swing for one in series])
    is_significant = corrected < limits["alpha"]
    limit, is_open = incidents(psi, is_significant, is_broken, swing, limits["psi"])
    for place, one in enumerate(series):
        one.state.update(limit=limit[place], is_open=is_open[place])
    return series


def incidents(
    psi: Array, is_significant: Array, is_broken: Array, swing: Array, least: float
) -> tuple[Array, Array]:
    """The limit of each series (rows) on each day (columns), and whether an incident is open then.

    An incident opens above the limit and ends below 0.8 times it; a day without a figure changes
    nothing. The limit is `least`, or more after larger swings: of training days (`swing`), or of
    an incident that lasted some days and ended.
    """
    limits, opened = np.zeros_like(psi), np.zeros(psi.shape, bool)
    is_open, days_open, highest = (np.zeros(len(psi), kind) for kind in (bool, int, float))
    was_broken, limit = np.zeros(len(psi), bool), np.maximum(least, SEASON_MARGIN * swing)
    for day in range(psi.shape[1]):
        value, broken = psi[:, day], is_broken[:, day]
        ends = is_open & ~broken & (value < END_SHARE * limit)
        was_season = ends & (days_open >= SEASON_DAYS) & ~was_broken
        swing = np.where(was_season, np.maximum(swing, highest), swing)
        limit = np.where(is_open & ~ends, limit, np.maximum(least, SEASON_MARGIN * swing))
        is_open = (is_open & ~ends) | broken | ((value > limit) & is_significant[:, day])
        days_open = np.where(is_open, days_open + 1, 0)
        highest = np.where(is_open, np.fmax(highest, value), 0)
        was_broken = is_open & (was_broken | broken)
        limits[:, day], opened[:, day] = limit, is_open
    return limits, opened


def _series_of(group: Group, days: list[int], limits: Mapping[str, Any]) -> list[Series]:
    if len(group.reference) < FEW_ROWS:
        return []
    training_days, series = list(np.unique(group.reference["day"].to_numpy(dtype=int))), []
    for name in group.reference.columns.drop("day"):
        bins = Bins.of(group.reference[name])
        reference = bins.count(group.reference, training_days)
        live, whole = bins.count(group.live, days), reference.sum(axis=0)
        top_share = reference.max(axis=1) / np.maximum(reference.sum(axis=1), 1)
        is_constant = top_share.max(initial=0) >= CONSTANT
        for window in limits["windows"]:
            now = _rolling(live, window)
            is_usable = (np.arange(len(days)) >= window - 1) & (now.sum(axis=1) >= FEW_ROWS)
            is_broken = is_usable & _is_broken(now, whole, limits["alpha"]) & (not is_constant)
            psi = np.where(is_usable, stability_index(now, whole), np.nan)
            p = np.where(is_usable, _test(now, whole), np.nan)
            inside = _rolling(reference, window)[window - 1 :]
            swings = stability_index(inside, whole - inside)
            swing = swings[np.isfinite(swings)].max(initial=0)
            moved = bins.format_move(now, whole)
            series.append(Series(group.tenant, name, window, psi, p, is_broken, swing, moved))
    return series


@dataclass(frozen=True)
class Bins:
    """The bins of one feature: the first is null, a category's last one has all other values."""

    feature: Feature
    edges: Array
    codes: dict[str, int]

    @classmethod
    def of(cls, column: pd.Series) -> "Bins":
        """Tenths of a number's training values, or the categories that are not rare there."""
        feature = Feature.of(column)
        if feature.kind == "number":
            values = feature.values(column)
            finite = values[np.isfinite(values)]
            tenths = np.arange(1, BINS) / BINS
            return cls(
                feature, np.unique(np.quantile(finite, tenths)) if len(finite) else finite, {}
            )
        share = column.value_counts(normalize=True)
        kept = [value for value in feature.categories if share[value] >= RARE]
        return cls(feature, np.array([]), {value: n for n, value in enumerate(kept, start=1)})

    def count(self, rows: pd.DataFrame, days: list[int]) -> Array:
        """Rows by day and bin."""
        rows = rows[rows["day"].isin(days)]
        column = rows[self.feature.name]
        if self.feature.kind == "number":
            size, values = len(self.edges) + 2, self.feature.values(column)
            place = np.where(np.isfinite(values), 1 + np.searchsorted(self.edges, values), 0)
        else:
            size = len(self.codes) + 2
            place = np.where(column.isna(), 0, column.map(self.codes).fillna(size - 1)).astype(int)
        day = np.searchsorted(days, rows["day"].to_numpy(dtype=int))
        return np.bincount(day * size + place, minlength=len(days) * size).reshape(len(days), size)

    def format_move(self, now: Array, whole: Array) -> str:
        """The bin whose share grew most on the newest day, in words."""
        if not len(now) or not now[-1].sum():
            return ""
        a, b = now[-1] / now[-1].sum(), whole / whole.sum()
        place = int(np.argmax(np.where(a > b, stability_terms(now[-1:], whole)[0], -1)))
        return f"{self._name(place)}: {b[place]:.1%} in training, {a[place]:.1%} now"

    def _name(self, place: int) -> str:
        if place == 0:
            return "null"
        if self.feature.kind == "category":
            names = {code: value for value, code in self.codes.items()}
            return names.get(place, "other values")
        low = f"above {self.edges[place - 2]:.3g}" if place > 1 else ""
        high = f"up to {self.edges[place - 1]:.3g}" if place <= len(self.edges) else ""
        return f"{low} {high}".strip() or "every value"


def _rolling(counts: Array, window: int) -> Array:
    total = np.vstack([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])
    place = np.arange(1, len(total))
    return total[1:] - total[np.maximum(place - window, 0)]


def _test(now: Array, whole: Array) -> Array:
    """The p-value of a chi-square test that both counts come from one distribution."""
    both = now + whole
    with np.errstate(divide="ignore", invalid="ignore"):
        n, m = now.sum(axis=1, keepdims=True), whole.sum()
        share = both / (n + m)
        parts = (now - n * share) ** 2 / (n * share) + (whole - m * share) ** 2 / (m * share)
    return chi2.sf(np.nansum(parts, axis=1), np.maximum((both > 0).sum(axis=1) - 1, 1))


def _is_broken(now: Array, whole: Array, alpha: float) -> Array:
    """All rows are in one bin, which was too rare in training for this to be chance."""
    rows = now.sum(axis=1)
    share = np.maximum(whole[np.argmax(now, axis=1)] / max(whole.sum(), 1), 1e-300)
    return (now.max(axis=1) == rows) & (rows * np.log(share) < np.log(alpha * 1e-3))
