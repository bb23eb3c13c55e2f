"""The population stability index: how far two samples are apart, from their counts by bin."""

import numpy as np

Array = np.ndarray


def stability_terms(now: Array, before: Array) -> Array:
    """Each bin's part of the index (Siddiqi, 2006), one row per row of `now`.

    Half a row is added to each bin, so that an empty one has a finite part.
    """
    a, b = now + 0.5, np.broadcast_to(before, now.shape) + 0.5
    a, b = a / a.sum(axis=1, keepdims=True), b / b.sum(axis=1, keepdims=True)
    return (a - b) * np.log(a / b)


def stability_index(now: Array, before: Array) -> Array:
    """The index of each row of counts, less its mean by chance; NaN where a side is empty.

    By convention 0 is the same and above 0.25 is far.
    """
    before = np.broadcast_to(before, now.shape)
    bins = ((now + before) > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = (bins - 1) * (1 / now.sum(axis=1) + 1 / before.sum(axis=1))
        index = np.maximum(stability_terms(now, before).sum(axis=1) - chance, 0)
        return np.where(np.isfinite(chance), index, np.nan)
