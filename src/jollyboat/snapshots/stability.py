"""The population stability index: how far two samples are apart, from their counts by bin.

Counts have the bins on their last axis.
"""

import numpy as np

Array = np.ndarray


def stability_terms(now: Array, before: Array, is_bin: Array | None = None) -> Array:
    """Each bin's part of the index (Siddiqi, 2006).

    Half a row is added to each bin, so that an empty one has a finite part. A place without a bin
    (`is_bin` is False) has the part 0.
    """
    half = 0.5 if is_bin is None else np.where(is_bin, 0.5, 0.0)
    a, b = now + half, before + half
    a, b = a / a.sum(axis=-1, keepdims=True), b / b.sum(axis=-1, keepdims=True)
    if is_bin is None:
        return (a - b) * np.log(a / b)
    return (a - b) * np.log(np.where(is_bin, a, 1) / np.where(is_bin, b, 1))


def stability_index(now: Array, before: Array, is_bin: Array | None = None) -> Array:
    """The index of each row of counts, less its mean by chance; NaN where a side is empty.

    By convention 0 is the same and above 0.25 is far.
    """
    bins = ((now + before) > 0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = (bins - 1) * (1 / now.sum(axis=-1) + 1 / before.sum(axis=-1))
        terms = stability_terms(now, before, is_bin)
        index = np.maximum(terms.sum(axis=-1) - chance, 0)
        return np.where(np.isfinite(chance), index, np.nan)
