"""Quality: average precision and the rate of outcomes of live answers, beside the holdout's.

Answers and holdout are compared at the same number of events. All tenants are computed at once:
their rows are sorted into cells (tenant and number of events). An average precision's variance is
the sum of its rows' squared influences (the infinitesimal jackknife, Jaeckel, 1972).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr
from scipy.stats import norm

from jollyboat.monitoring.check import ALL, Check, History, Limits, checked, correct, span, unknown
from jollyboat.monitoring.facts import Facts
from jollyboat.pages.terminal import format_count
from jollyboat.training.segments import FEW_POSITIVES

FEW_AT_K = 5
SMALL = "tenants with few outcomes"  # these tenants together
SUBJECTS = {"average precision": "value", "rate of outcomes": "ratio"}
FIGURES = ("positives", "value", "low", "high", "p", "ratio", "rate_p")

Array = np.ndarray


@dataclass(frozen=True)
class Quality:
    """Figures by name, each an array of days, windows and tenants; NaN with few outcomes."""

    tenants: list[str]
    days: list[int]
    windows: list[int]
    figures: dict[str, Array]
    outcomes: Array  # by day and tenant: the number of known outcomes up to it
    waiting: Array  # by day and tenant: answers without an outcome yet

    @property
    def outcomes_by_tenant(self) -> dict[str, int]:
        """The number of known outcomes by tenant."""
        outcomes = self.outcomes[-1] if self.days else np.zeros(len(self.tenants))
        return dict(zip(self.tenants, outcomes.astype(int).tolist(), strict=True))

    def place(self, day: int | None = None) -> int | None:
        """The place of a day, by default the newest; None where there is no such day."""
        day = self.days[-1] if day is None and self.days else day
        return self.days.index(day) if day in self.days else None


def measure(facts: Facts, tenants: Sequence[str], windows: Sequence[int]) -> Quality:
    """The quality of all together, of each of these tenants, and of those with few outcomes."""
    names = [ALL, *tenants]
    holdout, answers = _rows(facts.holdout, tenants), _rows(facts.answers, tenants)
    answers = answers[answers["day"].isin(facts.days)]
    quality = _measure(names, holdout, answers, list(facts.days), list(windows))
    if not facts.days or not len(tenants):
        return quality
    is_small = (quality.figures["positives"][-1] < FEW_POSITIVES).all(axis=0)
    is_small[0] = False
    if not is_small.any():
        return quality
    few = (
        rows[is_small[rows["tenant"]] & (rows["tenant"] > 0)].assign(tenant=0)
        for rows in (holdout, answers)
    )
    return _join(quality, _measure([SMALL], *few, quality.days, quality.windows))


def checks(quality: Quality, limits: Limits, day: int | None = None) -> list[Check]:
    """The checks as of a day, by default the newest; the tenants' tests are corrected together.

    Tenants with few outcomes are judged together: SMALL is left out if that says nothing.
    """
    place, n = quality.place(day), len(quality.tenants)
    if place is None:
        return [
            unknown("quality", tenant, subject, None, "No answer has an outcome yet.")
            for tenant in quality.tenants
            for subject in SUBJECTS
        ]
    now = {name: figure[place] for name, figure in quality.figures.items()}
    is_judged = (now["positives"] >= FEW_POSITIVES).any(axis=0)
    tests = len(quality.windows)
    worst, p = _worst_window(now["p"], tests)
    off_most, rate_p = _worst_window(now["rate_p"], tests)
    is_below = correct(p, quality.tenants) < limits["alpha"]
    is_off = correct(rate_p, quality.tenants) < limits["alpha"]
    results = []
    for one in range(n):
        if is_judged[one]:
            results += [
                _precision_check(quality, now, place, one, worst[one], is_below[one]),
                _rate_check(quality, now, place, one, off_most[one], is_off[one], limits),
            ]
        elif quality.tenants[one] != SMALL:
            results += _few_outcomes(quality, place, one)
    return results


def _precision_check(
    quality: Quality, now: dict[str, Array], place: int, one: int, window: int, is_below: bool
) -> Check:
    value, low, high, positives = (
        float(now[name][window, one]) for name in ("value", "low", "high", "positives")
    )
    verdict = "significantly below" if is_below else "not significantly below"
    sentence = (
        f"{value:.3f} over {span(quality.windows[window])} is {verdict} the holdout's at the same "
        f"number of events ({low:.3f} to {high:.3f}; {positives:.0f} outcomes, "
        f"{_format_waiting(quality, place, one)})."
    )
    history = _history(quality, "value", place, window, one)
    tenant = quality.tenants[one]
    return checked(
        "quality", tenant, "average precision", bool(is_below), value, low, sentence, history
    )


def _rate_check(
    quality: Quality,
    now: dict[str, Array],
    place: int,
    one: int,
    window: int,
    is_significant: bool,
    limits: Limits,
) -> Check:
    ratio, limit = float(now["ratio"][window, one]), limits["rate_ratio"]
    is_off = bool(is_significant) and not 1 / limit <= ratio <= limit
    sentence = (
        f"Over {span(quality.windows[window])} there were {ratio:.2f} times the predicted number "
        "of outcomes, relative to the holdout."
    )
    history, limit = (
        _history(quality, "ratio", place, window, one),
        limit if ratio > 1 else 1 / limit,
    )
    tenant = quality.tenants[one]
    return checked("quality", tenant, "rate of outcomes", is_off, ratio, limit, sentence, history)


def _few_outcomes(quality: Quality, place: int, one: int) -> list[Check]:
    sentence = (
        f"{quality.outcomes[place, one]:.0f} outcomes are known, "
        f"{_format_waiting(quality, place, one)}. {FEW_POSITIVES} known "
        f"ones are needed, at numbers of events with {FEW_AT_K} or more each."
    )
    tenant, last = quality.tenants[one], len(quality.windows) - 1
    return [
        unknown(
            "quality", tenant, subject, None, sentence, _history(quality, name, place, last, one)
        )
        for subject, name in SUBJECTS.items()
    ]


def _format_waiting(quality: Quality, place: int, one: int) -> str:
    return f"{format_count(quality.waiting[place, one], 'answer')} without an outcome yet"


def _history(quality: Quality, name: str, place: int, window: int, one: int) -> History:
    values = quality.figures[name][: place + 1, window, one].tolist()
    return tuple(None if value != value else value for value in values)


def _worst_window(p: Array, tests: int) -> tuple[Array, Array]:
    """The window with the smallest p-value of each tenant, and that value, corrected; NaN: none."""
    filled = np.where(np.isfinite(p), p, np.inf)
    worst = np.argmin(filled, axis=0)
    least = filled.min(axis=0)
    return worst, np.where(np.isfinite(least), np.minimum(least * tests, 1), np.nan)


def _rows(rows: pd.DataFrame, tenants: Sequence[str]) -> pd.DataFrame:
    """The rows of all (tenant 0), and once more of each tenant, with its place from 1."""
    rows = rows[["tenant_id", "day", "event_count", "label", "probability"]]
    place = 1 + pd.Index(tenants, dtype=object).get_indexer(rows["tenant_id"])
    rows = rows.drop(columns="tenant_id").astype(float)
    by_tenant = rows[place > 0].assign(tenant=place[place > 0])
    return pd.concat([rows.assign(tenant=0), by_tenant], ignore_index=True)


def _measure(
    names: list[str],
    holdout: pd.DataFrame,
    answers: pd.DataFrame,
    days: list[int],
    windows: list[int],
) -> Quality:
    counts = np.unique(np.concatenate([holdout["event_count"], answers["event_count"]]))
    holdout, answers = (_sorted(rows, counts) for rows in (holdout, answers))
    labeled = answers[answers["label"].notna()]
    then = _cells(holdout)
    figures = {name: np.full((len(days), len(windows), len(names)), np.nan) for name in FIGURES}
    outcomes, waiting = (np.zeros((len(days), len(names))) for _ in range(2))
    for d, day in enumerate(days):
        until = answers[answers["day"] <= day]
        rows = np.bincount(until["tenant"], minlength=len(names))
        has_label = until["label"].notna()
        waiting[d] = rows - np.bincount(until["tenant"][has_label], minlength=len(names))
        outcomes[d] = np.bincount(until["tenant"], until["label"].fillna(0), len(names))
        for w, window in enumerate(windows):
            within = labeled[(labeled["day"] > day - window) & (labeled["day"] <= day)]
            compared = _compare(then, _cells(within), len(names), max(len(counts), 1))
            for name, values in compared.items():
                figures[name][d, w] = values
    return Quality(names, days, windows, figures, outcomes, waiting)


def _join(quality: Quality, more: Quality) -> Quality:
    figures = {
        name: np.concatenate([figure, more.figures[name]], axis=-1)
        for name, figure in quality.figures.items()
    }
    outcomes, waiting = (
        np.concatenate([getattr(quality, name), getattr(more, name)], axis=-1)
        for name in ("outcomes", "waiting")
    )
    tenants = [*quality.tenants, *more.tenants]
    return Quality(tenants, quality.days, quality.windows, figures, outcomes, waiting)


def _sorted(rows: pd.DataFrame, counts: Array) -> pd.DataFrame:
    """The rows by cell and falling probability."""
    cell = rows["tenant"] * max(len(counts), 1) + np.searchsorted(counts, rows["event_count"])
    order = np.lexsort((-rows["probability"], cell))
    return rows.assign(cell=cell).iloc[order]


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows, outcomes, their predicted number and average precision with its variance, by cell.

    Only cells in which both outcomes are frequent enough. Rows with equal probabilities share the
    precision at the end of their run.
    """
    cell, label, probability = (rows[name].to_numpy() for name in ("cell", "label", "probability"))
    is_first = np.diff(cell, prepend=-1) != 0
    starts, of = np.flatnonzero(is_first), np.cumsum(is_first) - 1
    run_starts = np.flatnonzero(is_first | (np.diff(probability, prepend=-1) != 0))
    run = np.searchsorted(run_starts, np.arange(len(cell)), side="right") - 1
    last = np.append(run_starts[1:], len(cell))[run] - 1  # of each row's run

    def total(values: Array) -> Array:
        return np.bincount(of, values, len(starts))

    def up_to_run(values: Array) -> Array:
        """The sum over the cell's rows up to the end of each row's run."""
        sums = np.append(0, np.cumsum(values))
        return sums[last + 1] - sums[starts[of]]

    def from_run(values: Array) -> Array:
        """The sum over the cell's rows from the start of each row's run."""
        sums = np.append(0, np.cumsum(values))
        return sums[np.append(starts, len(cell))[of + 1]] - sums[run_starts[run]]

    ranked = up_to_run(np.ones(len(cell)))
    precision = up_to_run(label) / ranked
    positives, size = total(label), total(np.ones(len(cell)))
    with np.errstate(divide="ignore", invalid="ignore"):
        average = total(label * precision) / positives
        rise = precision + from_run(label / ranked) - average[of]
        influence = (label * rise - from_run(label * precision / ranked)) / positives[of]
        rarer = np.minimum(positives, size - positives)
        variance = total(influence**2) * rarer / (rarer - 1)
    figures = {
        "rows": size,
        "positives": positives,
        "predicted": total(probability),
        "precision": average,
        "variance": variance,
    }
    return pd.DataFrame(figures, index=cell[starts])[rarer >= FEW_AT_K]


def _compare(
    then: pd.DataFrame, now: pd.DataFrame, tenants: int, cells_of_tenant: int
) -> dict[str, Array]:
    """Each figure by tenant, weighted by the live answers; NaN for one with few outcomes."""
    both = now.join(then.add_suffix("_then"), how="inner")
    of = both.index.to_numpy(dtype=int) // cells_of_tenant

    def total(values: Any) -> Array:
        return np.bincount(of, values, tenants)

    with np.errstate(divide="ignore", invalid="ignore"):
        weight = both["rows"] / total(both["rows"])[of]
        value, expected = (total(weight * both[name]) for name in ("precision", "precision_then"))
        spread = np.sqrt(total(weight**2 * (both["variance"] + both["variance_then"])))
        positives, positives_then = total(both["positives"]), total(both["positives_then"])
        rate, rate_then = (
            count / total(both[name])
            for count, name in ((positives, "predicted"), (positives_then, "predicted_then"))
        )
        ratio_spread = np.sqrt(1 / positives + 1 / positives_then)
        figures = {
            "value": value,
            "low": expected - 1.96 * spread,
            "high": expected + 1.96 * spread,
            "p": stdtr(positives - 1, (value - expected) / np.maximum(spread, 1e-9)),
            "ratio": rate / rate_then,
            "rate_p": 2 * norm.sf(np.abs(np.log(rate / rate_then) / ratio_spread)),
        }
    is_enough = positives >= FEW_POSITIVES
    figures = {name: np.where(is_enough, values, np.nan) for name, values in figures.items()}
    return {"positives": positives, **figures}
