"""Champion against challenger: the difference in the outcome with an interval that may be looked at daily."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chisquare, ttest_ind_from_stats

VARIANTS = ["champion", "challenger"]
SURE = 0.001  # a split of visitors so unlikely means that something else than chance chose them
GUARD = 0.01  # how rarely a guardrail may strike where the challenger is just as slow or failing as it may be

Array = np.ndarray


def sequence(n: Array, hits: Array, alpha: float, expected: int) -> tuple[Array, Array]:
    """The difference of rates (second less first) and half its interval, which holds at all looks together.

    `n` and `hits` are visitors and outcomes so far, the two variants on the first axis. The asymptotic confidence
    sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024, Time-uniform central limit theory and asymptotic
    confidence sequences), narrowest when `expected` visitors have come. NaN while a variant has no visitor.
    """
    n, hits = np.asarray(n, float), np.asarray(hits, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate, total = hits / n, n.sum(axis=0)
        safe = (hits + 0.5) / (
            n + 1
        )  # where all had the outcome or nobody, the variance is small, but not zero
        spread = np.sqrt((safe * (1 - safe) * total / n).sum(axis=0))
        rho2 = (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))) / expected
        scale = np.sqrt(
            2 * (total * rho2 + 1) / (total**2 * rho2) * np.log(np.sqrt(total * rho2 + 1) / alpha)
        )
        return rate[1] - rate[0], spread * scale


def t_test(n: Array, hits: Array) -> Array:
    """The p-value of Welch's t-test, which holds at one look that was set beforehand."""
    n, hits = np.asarray(n, float), np.asarray(hits, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = hits / n
        deviation = np.sqrt(rate * (1 - rate) * n / (n - 1))
        return ttest_ind_from_stats(
            rate[1], deviation[1], n[1], rate[0], deviation[0], n[0], equal_var=False
        ).pvalue


def read(log: pd.DataFrame, share: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an experiment from its answers; `settings` is the section [experiment].

    `log`: person_id, session_id, answered_at, variant, outcome (NaN: waiting), latency_ms, probability (NaN: it could
    not be answered); `share`: of the challenger, above 0 and below 1. A person belongs to the variant of the first
    answer, whatever came later, and counts with the first session, for a value that was looked at must not change.
    """
    log = log.astype({"answered_at": "datetime64[us]", "latency_ms": float})
    log = log[log["person_id"].notna()].sort_values("answered_at", kind="stable")
    first = log.drop_duplicates("person_id")
    crossed = int((log.groupby("person_id")["variant"].nunique() > 1).sum())
    known = first[first["outcome"].notna()].assign(
        day=lambda rows: rows["answered_at"].dt.floor("D")
    )
    days = np.sort(known["day"].unique())
    by_day = known.assign(outcome=known["outcome"].astype(float)).groupby(["variant", "day"])[
        "outcome"
    ]
    grid = pd.MultiIndex.from_product([VARIANTS, days], names=["variant", "day"])
    shape = (len(VARIANTS), len(days))
    n, hits = (
        figure.reindex(grid, fill_value=0).to_numpy(float).reshape(shape).cumsum(axis=1)
        for figure in (by_day.size(), by_day.sum())
    )
    counts = first["variant"].value_counts().reindex(VARIANTS, fill_value=0)
    ratio_p = (
        chisquare(counts, np.array([1 - share, share]) * counts.sum()).pvalue if len(first) else 1.0
    )
    latency = log.groupby("variant")["latency_ms"].quantile(0.99).reindex(VARIANTS)
    failed = log["probability"].isna().groupby(log["variant"]).mean().reindex(VARIANTS)
    challengers = log[log["variant"] == "challenger"]
    failures = challengers["probability"].isna()
    slow = challengers["latency_ms"].dropna() > latency["champion"] + settings["slower_ms"]
    difference, half = sequence(n, hits, settings["alpha"], settings["expected_visitors"])
    now = (
        {"n": n[:, -1:].ravel(), "hits": hits[:, -1:].ravel()}
        if len(days)
        else {"n": [0, 0], "hits": [0, 0]}
    )
    found = {
        "variants": [
            {
                "variant": name,
                "visitors": int(counts[name]),
                "known": int(now["n"][place]),
                "outcomes": int(now["hits"][place]),
                "rate": _number(now["hits"][place] / now["n"][place]) if now["n"][place] else None,
                "p99_ms": _number(latency[name]),
                "failed": _number(failed[name]),
            }
            for place, name in enumerate(VARIANTS)
        ],
        "days": [
            {
                "day": str(day)[:10],
                "value": _number(value),
                "low": _number(value - wide),
                "high": _number(value + wide),
            }
            for day, value, wide in zip(days, difference, half, strict=True)
        ],
        "t_test_p": _number(t_test(n[:, -1], hits[:, -1])) if len(days) else None,
        "ratio_p": _number(ratio_p),
        "crossed": crossed,
        "waiting": int(first["outcome"].isna().sum()),
        "slower_ms": _number(latency["challenger"] - latency["champion"]),
        "failing": _number(failed["challenger"] - failed["champion"]),
        "is_slower": _is_surely_above(slow, 0.01),
        "is_failing": _is_surely_above(failures, failed["champion"] + settings["failing"]),
    }
    return found | _verdict(found)


def _verdict(found: Mapping[str, Any]) -> dict[str, str]:
    """{"verdict", "sentence"}: what may be concluded now, whatever was looked at before."""
    last = found["days"][-1] if found["days"] else None
    if found["ratio_p"] is not None and found["ratio_p"] < SURE:
        return {
            "verdict": "spoiled",
            "sentence": "Visitors were not split as asked, so the variants cannot be compared: either the share was "
            "changed since the experiment began, or something else asks the server.",
        }
    if found["is_failing"]:
        sentence = (
            f"The challenger fails at {found['failing']:.2%} of requests more than the champion."
        )
        return {
            "verdict": "failing",
            "sentence": f"{sentence} `jollyboat experiment stop`; the server's log says why.",
        }
    if last is None or last["low"] is None:
        return {"verdict": "open", "sentence": "No outcome of both variants is known yet."}
    if found["is_slower"]:
        sentence = f"99 of 100 of the challenger's answers take {found['slower_ms']:.0f} ms longer than the champion's."
        return {"verdict": "slower", "sentence": sentence}
    span = (
        f"{100 * last['value']:+.2f} points ({100 * last['low']:+.2f} to {100 * last['high']:+.2f})"
    )
    if last["low"] > 0:
        return {
            "verdict": "better",
            "sentence": f"The challenger is better: {span}. `jollyboat experiment promote` makes it champion.",
        }
    if last["high"] < 0:
        return {
            "verdict": "worse",
            "sentence": f"The challenger is worse: {span}. `jollyboat experiment stop` ends it.",
        }
    return {"verdict": "open", "sentence": f"No difference is sure yet: {span}."}


def _is_surely_above(happened: pd.Series, share: float) -> bool:
    """Whether it happens more often than in this share of all cases, by an exact binomial test."""
    if happened.empty or not share < 1:
        return False
    return bool(
        binomtest(int(happened.sum()), len(happened), share, alternative="greater").pvalue < GUARD
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
