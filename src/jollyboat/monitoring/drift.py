"""Drift: whether live features still look like training's, day by day, and when incidents opened.

Each day's rows are counted into bins of the training rows, of all tenants together and of each
tenant. A window of days drifts if two conditions hold. Its population stability index, less the
index by chance, is above the limit. A chi-square test of the same counts, corrected for all tests
of that day, is significant.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc
from scipy.stats import false_discovery_control

from jollyboat.monitoring.bins import Bins, bins_of, encode
from jollyboat.monitoring.check import ALL
from jollyboat.snapshots.stability import stability_index

FEW_ROWS = 100
SEASON_DAYS = 3  # an incident of so many days that ends by itself is a season; it raises the limit
SEASON_MARGIN = 1.25  # times the largest swing so far is the limit
END_SHARE = 0.8  # of the limit, below which an incident ends
CONSTANT = 0.995  # share of one bin on a training day that makes a constant feature normal
FEW_A_DAY = 20  # a training day with fewer rows says nothing about that
MOST_CELLS = 2_000_000  # counts (tenant, day, bin) at a time: about 200 MB

Array = np.ndarray


@dataclass(frozen=True)
class Table:
    """Rows to compare: `tenant_id`, `day` (a growing whole number); other columns are features."""

    reference: pd.DataFrame
    live: pd.DataFrame


@dataclass(frozen=True)
class Series:
    """One feature of one tenant in windows of days: a figure per live day, NaN with few rows."""

    tenant: str
    feature: str
    window: int
    psi: Array
    p: Array
    is_broken: Array
    training_swing: float  # the largest index of a window of training days against the others
    bins: Bins
    place: int  # of the tenant in the bins
    counts: tuple[Array, Array]  # by bin: of the newest window and of training
    state: dict[str, Array] = field(default_factory=dict)  # limit, is_open

    @property
    def is_open(self) -> bool:
        """Whether an incident is open on the newest day."""
        return bool(self.state["is_open"][-1])

    @property
    def moved(self) -> str:
        """The bin whose share grew most, in words."""
        return self.bins.format_move(self.place, *self.counts)

    @property
    def distribution(self) -> list[dict[str, Any]]:
        """The share of each large bin in training and in the newest window."""
        return self.bins.compare_shares(self.place, *self.counts)


def watch(tables: Sequence[Table], days: Sequence[int], limits: Mapping[str, Any]) -> list[Series]:
    """Every feature over the live `days`, oldest first, of all tenants together and of each one.

    A tenant needs 100 training rows. `limits` is [monitor]. A day's result depends only on it and
    earlier days: daily looks and one look after a month give the same incidents. The correction is
    Benjamini and Hochberg's (1995).
    """
    series = [one for table in tables for one in _series_of(table, list(days), limits)]
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


def _series_of(table: Table, days: list[int], limits: Mapping[str, Any]) -> Iterator[Series]:
    """The series of all tenants together and, where there are several, of each one."""
    reference, live = table.reference, table.live[table.live["day"].isin(days)]
    size = reference["tenant_id"].value_counts()
    tenants = sorted(size.index[size >= FEW_ROWS]) if len(size) > 1 else []
    (reference, owner), (live, live_owner) = (
        _sorted_by_tenant(rows, tenants) for rows in (reference, live)
    )
    trained = np.unique(reference["day"].to_numpy(dtype=int))
    features = reference.columns.drop(["tenant_id", "day"]) if len(reference) >= FEW_ROWS else []
    tests = len(limits["windows"]) * len(features) * (len(tenants) + 1)
    for feature in features:
        values, live_values, categories = encode(reference[feature], live[feature])
        then = _Rows(owner, _places(reference, trained), values)
        now = _Rows(live_owner, _places(live, days), live_values)
        for names, sides in ([ALL], (then.of_all(), now.of_all())), (tenants, (then, now)):
            sides = [side.of_judged() for side in sides]
            bins = bins_of(sides[0].tenant, sides[0].value, categories, len(names))
            for chunk, counts in _counts(bins, sides, len(names), (len(trained), len(days))):
                is_bin = np.arange(counts[0].shape[-1]) < bins.size[chunk][:, None, None]
                whole = counts[0].sum(axis=1)
                for window in limits["windows"]:
                    figures, newest = _figures(*counts, is_bin, window, limits["alpha"], tests)
                    for n, place in enumerate(chunk):
                        row, ends = [figure[n] for figure in figures], (newest[n], whole[n])
                        yield Series(names[place], feature, window, *row, bins, place, ends)


def _sorted_by_tenant(rows: pd.DataFrame, tenants: list[str]) -> tuple[pd.DataFrame, Array]:
    """The rows sorted by tenant, and each one's place among the tenants: -1 for another tenant."""
    place = pd.Index(tenants, dtype=object).get_indexer(rows["tenant_id"])
    order = np.argsort(place, kind="stable")
    return rows.iloc[order], place[order]


def _places(rows: pd.DataFrame, days: Sequence[int]) -> Array:
    return np.searchsorted(days, rows["day"].to_numpy(dtype=int))


def _counts(
    bins: Bins, sides: Sequence["_Rows"], tenants: int, days: tuple[int, int]
) -> Iterator[tuple[range, list[Array]]]:
    """The counts of training and of live rows, for chunks of tenants."""
    if not tenants:
        return
    width, placed = int(bins.size.max()), [bins.place(side.tenant, side.value) for side in sides]
    step = max(1, MOST_CELLS // (width * max(days)))
    for start in range(0, tenants, step):
        chunk = range(start, min(start + step, tenants))
        yield (
            chunk,
            [
                side.count(each, chunk, length, width)
                for side, each, length in zip(sides, placed, days, strict=True)
            ],
        )


@dataclass(frozen=True)
class _Rows:
    """Rows sorted by tenant: the places of their tenant and day, and a feature's value."""

    tenant: Array
    day: Array
    value: Array

    def of_all(self) -> "_Rows":
        """The same rows as those of one tenant."""
        return _Rows(np.zeros_like(self.tenant), self.day, self.value)

    def of_judged(self) -> "_Rows":
        """The rows of tenants that have a place."""
        first = np.searchsorted(self.tenant, 0)
        return _Rows(self.tenant[first:], self.day[first:], self.value[first:])

    def count(self, place: Array, tenants: range, days: int, bins: int) -> Array:
        """Rows by tenant, day and bin, from each row's bin."""
        kept = slice(*np.searchsorted(self.tenant, [tenants.start, tenants.stop]))
        tenant, shape = self.tenant[kept] - tenants.start, (len(tenants), days, bins)
        cell = (tenant * days + self.day[kept]) * bins + place[kept]
        return np.bincount(cell, minlength=np.prod(shape)).reshape(shape)


def _figures(
    reference: Array, live: Array, is_bin: Array, window: int, alpha: float, tests: int
) -> tuple[tuple[Array, Array, Array, Array], Array]:
    """psi, p, is_broken and the training swing by tenant; the counts of the newest window.

    The swing is of windows with enough rows, as those of live days.
    """
    whole, now = reference.sum(axis=1, keepdims=True), _rolling(live, window)
    rows = now.sum(axis=-1)
    is_usable = (np.arange(live.shape[1]) >= window - 1) & (rows >= FEW_ROWS)
    day_rows = reference.sum(axis=-1)
    top_share = np.where(day_rows < FEW_A_DAY, 0, reference.max(axis=-1) / np.maximum(day_rows, 1))
    is_varied = (top_share.max(axis=1, initial=0) < CONSTANT)[:, None]
    is_broken = is_usable & is_varied & _is_broken(now, whole, alpha / max(tests, 1000))
    psi = np.where(is_usable, stability_index(now, whole, is_bin), np.nan)
    p = np.where(is_usable, _test(now, whole), np.nan)
    inside = _rolling(reference, window)[:, window - 1 :]
    swings = stability_index(inside, whole - inside, is_bin)
    is_swing = np.isfinite(swings) & (inside.sum(axis=-1) >= FEW_ROWS)
    swing = np.where(is_swing, swings, 0).max(axis=1, initial=0)
    newest = now[:, -1] if live.shape[1] else np.zeros_like(whole[:, 0])
    return (psi, p, is_broken, swing), newest


def _rolling(counts: Array, window: int) -> Array:
    """The counts of the windows that end on each day, by tenant, day and bin."""
    total = np.concatenate([np.zeros_like(counts[:, :1]), np.cumsum(counts, axis=1)], axis=1)
    place = np.arange(1, total.shape[1])
    return total[:, 1:] - total[:, np.maximum(place - window, 0)]


def _test(now: Array, whole: Array) -> Array:
    """The p-value of a chi-square test that both counts come from one distribution."""
    both = now + whole
    with np.errstate(divide="ignore", invalid="ignore"):
        n, m = now.sum(axis=-1, keepdims=True), whole.sum(axis=-1, keepdims=True)
        share = both / (n + m)
        parts = (now - n * share) ** 2 / (n * share) + (whole - m * share) ** 2 / (m * share)
    return chdtrc(np.maximum((both > 0).sum(axis=-1) - 1, 1), np.nansum(parts, axis=-1))


def _is_broken(now: Array, whole: Array, alpha: float) -> Array:
    """All rows are in one bin, which was too rare in training for this to be chance."""
    rows, top = now.sum(axis=-1), np.argmax(now, axis=-1)
    share = np.take_along_axis(whole[:, 0], top, axis=1) / np.maximum(whole.sum(axis=-1), 1)
    is_one_bin = now.max(axis=-1, initial=0) == rows
    return is_one_bin & (rows * np.log(np.maximum(share, 1e-300)) < np.log(alpha))
