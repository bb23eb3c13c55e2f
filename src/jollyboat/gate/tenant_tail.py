"""Whether the tenants that lose most lose too much: each one's loss, shrunk, and their tail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.evaluate import row_losses

TAIL = 0.1  # of the tenants
PRIOR_UNITS = 10  # units of the pooled variance that each tenant's variance is mixed with
Z = 1.96

Array = np.ndarray


@dataclass(frozen=True)
class Tail:
    """The mean loss of the worst tenth of the tenants, its 95 % interval, and the worst by name."""

    value: float
    low: float
    high: float
    worst: list[tuple[str, float]]  # three tenants with their shrunk losses


def compare_tenants(
    tenant: Array, label: Array, candidate: Array, opponent: Array, persons: Array | None = None
) -> list[dict[str, Any]]:
    """For each tenant its rows, `loss` and `error`, the standard error of that loss.

    A loss is the mean log loss per row of the candidate less that of its opponent: above 0 the
    candidate is worse. Errors are of persons where they are known, else of rows. A tenant's
    variance is mixed with that of all tenants, as ten units of it (Smyth, 2004): three rows alone
    may look certain by chance.
    """
    if not len(tenant):
        return []
    code, names = pd.factorize(np.asarray(tenant, dtype=object), sort=True)
    loss = row_losses(np.asarray(label), candidate) - row_losses(np.asarray(label), opponent)
    rows = np.bincount(code)
    mean = np.bincount(code, loss) / rows
    unit = np.arange(len(code))
    if persons is not None:
        unit = pd.factorize(np.asarray(persons), use_na_sentinel=False)[0]
    units = pd.DataFrame({"tenant": code, "unit": unit, "rest": loss - mean[code]})
    sums = units.groupby(["tenant", "unit"])["rest"].sum()
    owner = sums.index.get_level_values("tenant").to_numpy()
    count = np.bincount(owner)
    squares = np.bincount(owner, sums.to_numpy() ** 2) * count / rows  # (count - 1) variances
    pooled = squares.sum() / max((count - 1).sum(), 1)
    variance = (PRIOR_UNITS * pooled + squares) / (PRIOR_UNITS + count - 1)
    error = np.sqrt(variance / rows)
    return [
        {"tenant": str(name), "rows": int(n), "loss": float(a), "error": float(b)}
        for name, n, a, b in zip(names, rows, mean, error, strict=True)
    ]


def find_tail(tenants: Sequence[Mapping[str, Any]]) -> Tail:
    """The tail of the tenants' losses, shrunk towards the mean of all by empirical Bayes.

    The model is normal-normal (Efron and Morris, 1975): the variance between tenants is DerSimonian
    and Laird's (1986), and a tenant keeps its distance to the mean in the share that this variance
    has of its own. The interval adds the tenants' posterior variance and that of the mean.
    """
    loss, variance = np.array([(one["loss"], one["error"] ** 2) for one in tenants]).T
    variance = np.maximum(variance, 1e-12)
    between = _variance_between(loss, variance)
    weight = 1 / (variance + between)
    mean, kept = (weight * loss).sum() / weight.sum(), between * weight
    shrunk = mean + kept * (loss - mean)
    order = np.argsort(-shrunk, kind="stable")
    tail = order[: max(1, round(TAIL * len(loss)))]
    own = (kept[tail] * variance[tail]).sum() / len(tail) ** 2
    shared = (1 - kept[tail]).mean() ** 2 / weight.sum()
    value, half = float(shrunk[tail].mean()), float(Z * np.sqrt(own + shared))
    worst = [(str(tenants[place]["tenant"]), float(shrunk[place])) for place in order[:3]]
    return Tail(value, value - half, value + half, worst)


def _variance_between(loss: Array, variance: Array) -> float:
    weight = 1 / variance
    mean = (weight * loss).sum() / weight.sum()
    excess = (weight * (loss - mean) ** 2).sum() - (len(loss) - 1)
    return max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum()))
