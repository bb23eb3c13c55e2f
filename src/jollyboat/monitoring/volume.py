"""Volume: sessions of the newest day against the smallest and the largest day of training."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import pandas as pd
from scipy.stats import poisson

from jollyboat.monitoring.check import ALL, Check, Limits, checked, correct, unknown
from jollyboat.monitoring.facts import Facts
from jollyboat.pages.terminal import format_count

FEWEST_A_DAY = 10

Array = np.ndarray


def count_sessions(facts: Facts, tenants: Sequence[str], days: Sequence[int]) -> Array:
    """Sessions by tenant (all together first) and day."""
    rows = facts.volumes[facts.volumes["day"].isin(days)]
    place = 1 + pd.Index(tenants, dtype=object).get_indexer(rows["tenant_id"])
    day, count = np.searchsorted(days, rows["day"].astype(int)), rows["session_count"].astype(float)
    counts = np.zeros((1 + len(tenants), len(days)))
    np.add.at(counts, (place[place > 0], day[place > 0]), count[place > 0])
    np.add.at(counts[0], day, count)
    return counts


def newest_and_usual(facts: Facts, tenants: Sequence[str]) -> dict[str, tuple[int, float | None]]:
    """Sessions of the newest 24 hours and the median of training's days, of all and each tenant."""
    before, newest = (count_sessions(facts, tenants, days) for days in (_trained(facts), [0]))
    usual = np.median(before, axis=1).tolist() if before.size else [None] * len(before)
    pairs = zip(newest[:, 0].astype(int).tolist(), usual, strict=True)
    return dict(zip([ALL, *tenants], pairs, strict=True))


def checks(facts: Facts, tenants: Sequence[str], limits: Limits) -> list[Check]:
    """The volume of all together and of each tenant; the tenants' tests are corrected together.

    The newest day is off where it is below the smallest day of training divided by `volume_ratio`,
    or above the largest one times it, by more than a Poisson count varies. A tenant has stopped if
    it has had no session for more days in a row than ever in training.
    """
    names, ratio = [ALL, *tenants], limits["volume_ratio"]
    before, live = (count_sessions(facts, tenants, days) for days in (_trained(facts), facts.days))
    if not before.size or not live.size:
        empty = tuple(live[0].astype(float)) if len(live) else ()
        return [_too_few(tenant, empty) for tenant in names]
    is_judged = np.median(before, axis=1) >= FEWEST_A_DAY
    least, most, now = before.min(axis=1), before.max(axis=1), live[:, -1]
    low, high = least / ratio, most * ratio
    p = np.where(now < low, poisson.cdf(now, low), 1.0)
    p = np.where(now > high, poisson.sf(now - 1, high), p)
    is_off = correct(np.where(is_judged, p, np.nan), names) < limits["alpha"]
    results = []
    for one, tenant in enumerate(names):
        history = tuple(live[one].astype(float).tolist())
        if not is_judged[one]:
            results.append(_too_few(tenant, history))
            continue
        has_stopped = _has_stopped(before[one], live[one])
        count = "No session" if has_stopped else format_count(now[one], "session")
        sentence = (
            f"{count} in the newest 24 hours; {least[one]:,.0f} to {most[one]:,.0f} a day in "
            "training."
        )
        limit = float(high[one] if now[one] > high[one] else low[one])
        alarm, value = bool(has_stopped or is_off[one]), float(now[one])
        results.append(
            checked("volume", tenant, "sessions", alarm, value, limit, sentence, history)
        )
    return results


def _trained(facts: Facts) -> list[int]:
    return sorted(facts.reference["day"].astype(int).unique().tolist())


def _too_few(tenant: str, history: tuple) -> Check:
    sentence = "There are too few days or sessions."
    return unknown("volume", tenant, "sessions", None, sentence, history)


def _has_stopped(before: Array, live: Array) -> bool:
    return _empty_days([*before, *live])[-1] > max(_empty_days(before))


def _empty_days(counts: Iterable[float]) -> list[int]:
    """For each day, the number of empty days in a row up to it."""
    return list(accumulate(counts, lambda run, count: 0 if count else run + 1, initial=0))
