"""Champion against challenger: the difference in the outcome, valid at daily looks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chisquare, ttest_ind_from_stats

from jollyboat.pages.terminal import format_percent

VARIANTS = ["champion", "challenger"]
SPLIT_LEVEL = 0.001  # p-value of the split of visitors below which it is no chance
GUARD_LEVEL = 0.01  # rate of false alarms of a guardrail for a challenger exactly at its limit

Array = np.ndarray


def sequence(n: Array, hits: Array, alpha: float, expected: int) -> tuple[Array, Array]:
    """The difference of rates (second less first) and half its interval, valid at all looks.

    `n` and `hits` are cumulative visitors and outcomes, the two variants on the first axis. This is
    the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024,
    Time-uniform central limit theory and asymptotic confidence sequences). It is narrowest at
    `expected` visitors, and NaN while a variant has no visitor.
    """
    n, hits = np.asarray(n, float), np.asarray(hits, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate, total = hits / n, n.sum(axis=0)
        smoothed = (hits + 0.5) / (n + 1)  # keeps the variance above 0 at rates of 0 and 1
        spread = np.sqrt((smoothed * (1 - smoothed) * total / n).sum(axis=0))
        rho2 = (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))) / expected
        v = total * rho2 + 1
        scale = np.sqrt(2 * v / (total**2 * rho2) * np.log(np.sqrt(v) / alpha))
        return rate[1] - rate[0], spread * scale


def t_test(n: Array, hits: Array) -> Array:
    """The p-value of Welch's t-test, valid for one look that was planned beforehand."""
    n, hits = np.asarray(n, float), np.asarray(hits, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = hits / n
        deviation = np.sqrt(rate * (1 - rate) * n / (n - 1))
        second, first = ((rate[i], deviation[i], n[i]) for i in (1, 0))
        return ttest_ind_from_stats(*second, *first, equal_var=False).pvalue


def read(
    log: pd.DataFrame, share: float, settings: Mapping[str, Any], is_wanted: bool = True
) -> dict[str, Any]:
    """The state of an experiment from its answers; `settings` is the section [experiment].

    `log`: person_id, session_id, answered_at, variant, outcome (NaN: waiting), latency_ms,
    probability (NaN: failed, unless an answer_status says otherwise). `share` is the
    challenger's, above 0 and below 1. A person belongs to the variant of the first answer and
    counts with the first session: a result must not change after a look. More of the outcome is
    better, or less where it is not `is_wanted`.
    """
    log = log.astype({"answered_at": "datetime64[us]", "latency_ms": float})
    log = log[log["person_id"].notna()].sort_values("answered_at", kind="stable")
    first = log.drop_duplicates("person_id")
    days, n, hits = _count_by_day(first[first["outcome"].notna()])
    counts = first["variant"].value_counts().reindex(VARIANTS, fill_value=0)
    expected = np.array([1 - share, share]) * counts.sum()
    ratio_p = chisquare(counts, expected).pvalue if len(first) else 1.0
    latency = log.groupby("variant")["latency_ms"].quantile(0.99).reindex(VARIANTS)
    is_failed = log["probability"].isna()
    if "answer_status" in log:
        is_failed &= log["answer_status"] == "failed"
    log = log.assign(is_failed=is_failed)
    failed = log.groupby("variant")["is_failed"].mean().reindex(VARIANTS)
    challenger = log[log["variant"] == "challenger"]
    slow = challenger["latency_ms"].dropna() > latency["champion"] + settings["slower_ms"]
    allowed = failed["champion"] + settings["failing"]
    difference, half = sequence(n, hits, settings["alpha"], settings["expected_visitors"])
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = hits / n
    latest_n, latest_hits = (by_day[:, -1] if len(days) else [0, 0] for by_day in (n, hits))
    readout = {
        "variants": [
            {
                "variant": name,
                "visitors": int(counts[name]),
                "observed": int(visitors),
                "outcomes": int(outcomes),
                "rate": float(outcomes / visitors) if visitors else None,
                "p99_ms": _number(latency[name]),
                "failed": _number(failed[name]),
            }
            for name, visitors, outcomes in zip(VARIANTS, latest_n, latest_hits, strict=True)
        ],
        "days": [
            {
                "day": str(day)[:10],
                **_interval(value, width),
                **dict(zip(VARIANTS, map(_number, rate), strict=True)),
            }
            for day, value, width, rate in zip(days, difference, half, rates.T, strict=True)
        ],
        "days_left": _days_left(days, n, hits, settings),
        "tenants": _by_tenant(first, settings),
        "t_test_p": _number(t_test(latest_n, latest_hits)) if len(days) else None,
        "ratio_p": _number(ratio_p),
        "crossed": int((log.groupby("person_id")["variant"].nunique() > 1).sum()),
        "waiting": int(first["outcome"].isna().sum()),
        "slower_ms": _number(latency["challenger"] - latency["champion"]),
        "failing": _number(failed["challenger"] - failed["champion"]),
        "is_slower": _is_significantly_above(slow, 0.01),
        "is_failing": _is_significantly_above(challenger["is_failed"], allowed),
    }
    verdict, sentence = _verdict(readout, is_wanted)
    return readout | {"verdict": verdict, "sentence": sentence}


def _interval(difference: float, half: float) -> dict[str, float | None]:
    """A difference of two rates with its interval, which ends where rates do; None if unknown."""
    low, high = max(difference - half, -1), min(difference + half, 1)
    return {"value": _number(difference), "low": _number(low), "high": _number(high)}


def _count_by_day(first: pd.DataFrame) -> tuple[Array, Array, Array]:
    """The days, and cumulative visitors and outcomes by variant (rows) and day (columns)."""
    day = first["answered_at"].dt.floor("D")
    days = np.sort(day.unique())
    by_day = first["outcome"].astype(float).groupby([first["variant"], day])
    grid = pd.MultiIndex.from_product([VARIANTS, days])
    n, hits = (
        counts.reindex(grid, fill_value=0)
        .to_numpy(float)
        .reshape(len(VARIANTS), len(days))
        .cumsum(axis=1)
        for counts in (by_day.size(), by_day.sum())
    )
    return days, n, hits


def _days_left(days: Array, n: Array, hits: Array, settings: Mapping[str, Any]) -> float | None:
    """The days until the interval excludes 0 if visitors and rates stay as they are.

    None where that takes over a hundred times as long as until now, or nothing is known.
    """
    if not len(days):
        return None
    factors = np.geomspace(1, 100, 400)
    counts = n[:, -1:] * factors, hits[:, -1:] * factors
    difference, half = sequence(*counts, settings["alpha"], settings["expected_visitors"])
    enough = factors[half < np.abs(difference)]
    elapsed = (days[-1] - days[0]) / np.timedelta64(1, "D") + 1
    return float((enough[0] - 1) * elapsed) if len(enough) else None


def _by_tenant(first: pd.DataFrame, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The difference in each tenant, the largest first; a tenant's interval is of it alone."""
    rows, complete = [], first[first["outcome"].notna()]
    for tenant, own in complete.groupby("tenant_id") if "tenant_id" in complete else ():
        _, n, hits = _count_by_day(own)
        ends = n[:, -1], hits[:, -1]
        value, half = sequence(*ends, settings["alpha"], settings["expected_visitors"])
        rows.append({"tenant": tenant, "visitors": len(own), **_interval(value, half)})
    return sorted(rows, key=lambda row: -row["visitors"])


def _verdict(readout: Mapping[str, Any], is_wanted: bool) -> tuple[str, str]:
    """The verdict and its sentence, valid at every look."""
    if readout["ratio_p"] is not None and readout["ratio_p"] < SPLIT_LEVEL:
        return "spoiled", (
            "Visitors were not split by the share, so the variants cannot be compared. Either the "
            "share was changed since the start, or another client calls the server."
        )
    if readout["is_failing"]:
        return "failing", (
            f"The challenger fails at {format_percent(readout['failing'])} of requests more than "
            "the champion. Run `jollyboat experiment stop`; the server's log has the reason."
        )
    last = readout["days"][-1] if readout["days"] else None
    if last is None or last["low"] is None:
        return "open", "No outcome of both variants is known yet."
    if readout["is_slower"]:
        return "slower", (
            f"The challenger's 99th percentile of latency is {readout['slower_ms']:.0f} ms above "
            "the champion's."
        )
    value, low, high = (100 * last[name] for name in ("value", "low", "high"))
    span = f"{value:+.2f} points ({low:+.2f} to {high:+.2f})"
    is_higher, is_lower = low > 0, high < 0
    if is_higher if is_wanted else is_lower:
        command = "Run `jollyboat experiment promote` to make it champion."
        return "better", f"The challenger is significantly better: {span}. {command}"
    if is_lower if is_wanted else is_higher:
        command = "Run `jollyboat experiment stop`."
        return "worse", f"The challenger is significantly worse: {span}. {command}"
    return "open", f"There is no significant difference yet: {span}."


def _is_significantly_above(events: pd.Series, share: float) -> bool:
    """Whether the rate of events is above this share, by an exact binomial test."""
    if events.empty or not share < 1:
        return False
    test = binomtest(int(events.sum()), len(events), share, alternative="greater")
    return bool(test.pvalue < GUARD_LEVEL)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
