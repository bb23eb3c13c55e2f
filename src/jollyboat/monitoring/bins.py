"""Bins of a feature, made of each tenant's training rows: tenths of numbers, or the categories.

Bin 0 is null. A category's last bin has all other values. All tenants are counted together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.pages.terminal import format_percent
from jollyboat.snapshots.stability import stability_terms
from jollyboat.training.schema import MOST_CATEGORIES, Feature

BINS, RARE = 10, 0.01
MOST_SHOWN = 12
TENTHS = np.arange(1, BINS) / BINS

Array = np.ndarray


@dataclass(frozen=True)
class Bins:
    """The bins of one feature for each tenant; tenants are numbers from 0, as `size` counts them.

    `place` gives the bin of each row from its tenant and its value as `encode` returns it.
    """

    size: Array  # the number of bins of each tenant
    place: Callable[[Array, Array], Array]
    name: Callable[[int, int], str]  # of a tenant's bin

    def format_move(self, tenant: int, now: Array, before: Array) -> str:
        """The bin whose share grew most between these counts of a tenant's rows, in words."""
        now, before = now[: self.size[tenant]], before[: self.size[tenant]]
        if not now.sum():
            return ""
        a, b = now / now.sum(), before / before.sum()
        place = int(np.argmax(np.where(a > b, stability_terms(now, before), -1)))
        name = self.name(tenant, place) if place else "null"
        return f"{name}: {format_percent(b[place])} in training, {format_percent(a[place])} now"

    def compare_shares(self, tenant: int, now: Array, before: Array) -> list[dict[str, Any]]:
        """The `value`, share `then` and share `now` of a tenant's MOST_SHOWN largest bins."""
        now, before = (
            counts[: self.size[tenant]] / max(counts[: self.size[tenant]].sum(), 1)
            for counts in (now, before)
        )
        largest = sorted(np.argsort(-(now + before), kind="stable")[:MOST_SHOWN])
        names = [self.name(tenant, place) if place else "null" for place in largest]
        return [
            {"value": name, "then": float(before[place]), "now": float(now[place])}
            for name, place in zip(names, largest, strict=True)
            if now[place] or before[place]
        ]


def encode(reference: pd.Series, live: pd.Series) -> tuple[Array, Array, Array | None]:
    """Numbers of both columns, and the categories that are their codes (None for a number).

    Null is NaN for a number and -1 for a category.
    """
    feature = Feature.of(reference)
    if feature.kind == "number":
        return feature.values(reference), feature.values(live), None
    both = pd.concat([reference.astype(object), live.astype(object)])
    codes, values = pd.factorize(both)
    return codes[: len(reference)], codes[len(reference) :], np.asarray(values)


def bins_of(tenant: Array, values: Array, categories: Array | None, tenants: int) -> Bins:
    """The bins of these training rows, which are sorted by tenant."""
    if categories is None:
        return _bins_of_numbers(np.searchsorted(tenant, np.arange(tenants + 1)), values)
    return _bins_of_categories(tenant, values, categories, tenants)


def _bins_of_numbers(starts: Array, values: Array) -> Bins:
    """Tenths of each tenant's values; equal edges are one."""
    edges = np.full((len(starts) - 1, len(TENTHS)), np.inf)
    for tenant, (start, end) in enumerate(pairwise(starts)):
        finite = values[start:end][np.isfinite(values[start:end])]
        if len(finite):
            distinct = np.unique(np.quantile(finite, TENTHS))
            edges[tenant, : len(distinct)] = distinct

    def place(tenant: Array, values: Array) -> Array:
        below = np.zeros(len(values), int)
        for edge in edges.T:
            below += values > edge[tenant]
        return np.where(np.isfinite(values), 1 + below, 0)

    def name(tenant: int, place: int) -> str:
        own = edges[tenant][np.isfinite(edges[tenant])]
        low = f"above {own[place - 2]:.3g}" if place > 1 else ""
        high = f"up to {own[place - 1]:.3g}" if place <= len(own) else ""
        return f"{low} {high}".strip() or "every value"

    return Bins(np.isfinite(edges).sum(axis=1) + 2, place, name)


def _bins_of_categories(tenant: Array, codes: Array, categories: Array, tenants: int) -> Bins:
    """Each tenant's most frequent categories, at most 50, that are not rare there."""
    is_value, width = codes >= 0, max(len(categories), 1)
    rows = np.bincount(tenant[is_value], minlength=tenants)
    keys, counts = np.unique(tenant[is_value] * width + codes[is_value], return_counts=True)
    owner = keys // width
    by_count = np.lexsort((-counts, owner))
    rank = np.empty(len(keys), int)
    rank[by_count] = np.arange(len(keys)) - np.searchsorted(owner, owner[by_count])
    keys = keys[(counts >= RARE * rows[owner]) & (rank < MOST_CATEGORIES)]
    first = np.searchsorted(keys // width, np.arange(tenants + 1))
    size = np.diff(first) + 2

    def place(tenant: Array, codes: Array) -> Array:
        wanted = tenant * width + codes
        at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        is_kept = (keys[at] == wanted) & (codes >= 0) if len(keys) else np.zeros(len(codes), bool)
        kept = np.where(is_kept, 1 + at - first[tenant], size[tenant] - 1)
        return np.where(codes < 0, 0, kept)

    def name(tenant: int, place: int) -> str:
        if place == size[tenant] - 1:
            return "other values"
        return str(categories[keys[first[tenant] + place - 1] % width])

    return Bins(size, place, name)
