"""Whether what comes in still looks like what was learned from, day by day, and when that became news.

A day's rows are counted into bins of the training rows (tenths for numbers, values for categories, null apart), for
every feature and group at once. A window of days drifts when its population stability index, less what chance alone
gives, is above the limit, and a chi-square test of the same counts, corrected for all that is tested that day, is sure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2, false_discovery_control

from jollyboat.training.schema import Feature

BINS, RARE, FEW_ROWS = 10, 0.01, 100
SEASON_DAYS = 3  # an incident that lasts so long and ends by itself was a swing, whose size is known from then on
BEYOND_KNOWN, BACK_AT = (
    1.25,
    0.8,
)  # times the largest swing that is known; times the limit, where an incident ends

Array = np.ndarray


@dataclass(frozen=True)
class Group:
    """Rows to compare: a column `day` (a whole number, growing with time), every other column is a feature."""

    tenant: str
    reference: pd.DataFrame
    live: pd.DataFrame


@dataclass(frozen=True)
class Series:
    """One feature of one group in windows of some days: a figure for each live day, NaN where there are few rows."""

    tenant: str
    feature: str
    window: int
    psi: Array
    p: Array
    is_broken: Array
    known: float  # the largest index of a window of the training days against the other ones
    moved: str
    state: dict[str, Array] = field(default_factory=dict)  # limit, is_open

    @property
    def is_open(self) -> bool:
        """Whether an incident is open on the newest day."""
        return bool(self.state["is_open"][-1])


def watch(groups: Sequence[Group], days: Sequence[int], limits: Mapping[str, Any]) -> list[Series]:
    """Every feature of every group over the live `days`, oldest first; `limits` is the section [monitor].

    Read: windows, psi, alpha. Each day is judged by itself and what came before, so that looking daily or once after
    a month gives the same incidents. The correction is Benjamini and Hochberg's (1995).
    """
    found = [series for group in groups for series in _series_of(group, list(days), limits)]
    if not found or not len(days):
        return []
    p = np.array([series.p for series in found])
    tested = np.isfinite(p)
    corrected = np.ones_like(p)
    for day in range(len(days)):
        if tested[:, day].any():
            corrected[tested[:, day], day] = false_discovery_control(p[tested[:, day], day])
    psi, is_broken = np.array([s.psi for s in found]), np.array([s.is_broken for s in found])
    known = np.array([series.known for series in found])
    limit, is_open = incidents(psi, corrected < limits["alpha"], is_broken, known, limits["psi"])
    for place, series in enumerate(found):
        series.state.update(limit=limit[place], is_open=is_open[place])
    return found


def incidents(
    psi: Array, is_sure: Array, is_broken: Array, known: Array, least: float
) -> tuple[Array, Array]:
    """The limit of each series (rows) on each day (columns), and whether an incident is open then.

    One opens above the limit and ends below 0.8 times it; a day without a figure changes nothing. The limit is `least`,
    or more where the training days, or an incident that lasted some days and ended, have shown a larger swing.
    """
    known, limits, opened = known.copy(), np.zeros_like(psi), np.zeros(psi.shape, bool)
    is_open, days_open, highest = (np.zeros(len(psi), kind) for kind in (bool, int, float))
    was_broken, limit = np.zeros(len(psi), bool), np.maximum(least, BEYOND_KNOWN * known)
    for day in range(psi.shape[1]):
        value, broken = psi[:, day], is_broken[:, day]
        ends = is_open & ~broken & (value < BACK_AT * limit)
        was_season = ends & (days_open >= SEASON_DAYS) & ~was_broken
        known = np.where(was_season, np.maximum(known, highest), known)
        limit = np.where(is_open & ~ends, limit, np.maximum(least, BEYOND_KNOWN * known))
        is_open = (is_open & ~ends) | broken | ((value > limit) & is_sure[:, day])
        days_open = np.where(is_open, days_open + 1, 0)
        highest = np.where(is_open, np.fmax(highest, value), 0)
        was_broken = is_open & (was_broken | broken)
        limits[:, day], opened[:, day] = limit, is_open
    return limits, opened


def _series_of(group: Group, days: list[int], limits: Mapping[str, Any]) -> list[Series]:
    names = [name for name in group.reference.columns if name != "day"]
    reference_days = np.unique(group.reference["day"].to_numpy(dtype=int))
    found = []
    for name in names if len(group.reference) >= FEW_ROWS else []:
        bins = Bins.of(group.reference[name])
        reference = bins.count(group.reference, list(reference_days))
        live = bins.count(group.live, days)
        daily_top = (reference.max(axis=1) / np.maximum(reference.sum(axis=1), 1)).max(initial=0)
        for window in limits["windows"]:
            now, whole = _rolling(live, window), reference.sum(axis=0)
            inside = _rolling(reference, window)[
                window - 1 :
            ]  # each window of training days against the others
            known = _stability(inside, whole - inside)
            usable = (np.arange(len(days)) >= window - 1) & (now.sum(axis=1) >= FEW_ROWS)
            psi, p = (
                np.where(usable, figure, np.nan)
                for figure in (_stability(now, whole), _test(now, whole))
            )
            known = known[np.isfinite(known)].max(initial=0)
            broken = usable & _is_broken(now, whole, limits["alpha"]) & (daily_top < 0.995)
            found.append(
                Series(group.tenant, name, window, psi, p, broken, known, bins.moved(now, whole))
            )
    return found


@dataclass(frozen=True)
class Bins:
    """The bins of one feature: 0 is null, the last one what training did not hold."""

    feature: Feature
    edges: Array
    codes: dict[str, int]

    @classmethod
    def of(cls, column: pd.Series) -> "Bins":
        """Tenths of a number's values in training, or the categories that are not rare there."""
        feature = Feature.of(column)
        if feature.kind == "number":
            values = feature.values(column)
            known = values[np.isfinite(values)]
            return cls(
                feature,
                np.unique(np.quantile(known, np.arange(1, BINS) / BINS)) if len(known) else known,
                {},
            )
        share = column.value_counts(normalize=True)
        kept = [value for value in feature.categories if share[value] >= RARE]
        return cls(
            feature, np.array([]), {value: place for place, value in enumerate(kept, start=1)}
        )

    def count(self, rows: pd.DataFrame, days: list[int]) -> Array:
        """Rows by day and bin."""
        size = len(self.codes) + 2 if self.feature.kind == "category" else len(self.edges) + 2
        rows = rows[rows["day"].isin(days)]
        column = rows[self.feature.name]
        if self.feature.kind == "number":
            values = self.feature.values(column)
            place = np.where(np.isfinite(values), 1 + np.searchsorted(self.edges, values), 0)
        else:
            place = np.where(column.isna(), 0, column.map(self.codes).fillna(size - 1)).astype(int)
        day = np.searchsorted(days, rows["day"].to_numpy(dtype=int))
        return np.bincount(day * size + place, minlength=len(days) * size).reshape(len(days), size)

    def moved(self, now: Array, whole: Array) -> str:
        """Which bin's share grew most on the newest day, in words."""
        if not len(now) or not now[-1].sum():
            return ""
        a, b = now[-1] / now[-1].sum(), whole / whole.sum()
        place = int(np.argmax(np.where(a > b, _terms(now[-1:], whole)[0], -1)))
        return f"{self._name(place)}: {b[place]:.1%} then, {a[place]:.1%} now"

    def _name(self, place: int) -> str:
        if place == 0:
            return "null"
        if self.feature.kind == "category":
            return dict(zip(self.codes.values(), self.codes, strict=True)).get(
                place, "other values"
            )
        low, high = [None, *self.edges.tolist()][place - 1], [*self.edges.tolist(), None][place - 1]
        if low is None or high is None:
            return (
                "every value"
                if low is high
                else f"up to {high:.3g}"
                if low is None
                else f"above {low:.3g}"
            )
        return f"above {low:.3g} up to {high:.3g}"


def _rolling(counts: Array, window: int) -> Array:
    total = np.vstack([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])
    place = np.arange(1, len(total))
    return total[1:] - total[np.maximum(place - window, 0)]


def _terms(now: Array, whole: Array) -> Array:
    """Each bin's part of the population stability index (Siddiqi, 2006); half a row more each keeps it finite."""
    a, b = now + 0.5, np.broadcast_to(whole, now.shape) + 0.5
    a, b = a / a.sum(axis=1, keepdims=True), b / b.sum(axis=1, keepdims=True)
    return (a - b) * np.log(a / b)


def _stability(now: Array, whole: Array) -> Array:
    """The index of each row of counts, less what it is by chance where nothing moved; NaN where a side is empty."""
    whole = np.broadcast_to(whole, now.shape)
    bins = ((now + whole) > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = (bins - 1) * (1 / now.sum(axis=1) + 1 / whole.sum(axis=1))
        return np.where(
            np.isfinite(chance), np.maximum(_terms(now, whole).sum(axis=1) - chance, 0), np.nan
        )


def _test(now: Array, whole: Array) -> Array:
    """The chance of counts that differ so much where both come from one distribution (chi-square)."""
    both = now + whole
    with np.errstate(divide="ignore", invalid="ignore"):
        n, m = now.sum(axis=1, keepdims=True), whole.sum()
        expected = both / (n + m)
        parts = (now - n * expected) ** 2 / (n * expected) + (whole - m * expected) ** 2 / (
            m * expected
        )
    return chi2.sf(np.nansum(parts, axis=1), np.maximum((both > 0).sum(axis=1) - 1, 1))


def _is_broken(now: Array, whole: Array, alpha: float) -> Array:
    """All rows in one bin that held so little of training that this is no chance."""
    share = np.maximum(whole[np.argmax(now, axis=1)] / max(whole.sum(), 1), 1e-300)
    return (now.max(axis=1) == now.sum(axis=1)) & (
        now.sum(axis=1) * np.log(share) < np.log(alpha * 1e-3)
    )
