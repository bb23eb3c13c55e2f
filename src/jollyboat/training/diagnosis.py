"""Was training optimal: would more rows help, does it over- or underfit, was the result luck, and what does it go by.

All of it looks at rows before the holdout, at most MOST_ROWS of them, evenly taken, so that it costs little.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.estimators import BASELINE, Model, find_candidate, fit
from jollyboat.training.evaluate import Ranking
from jollyboat.training.explanation import explain, is_estimate
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part, Split, join, rows_of, thin

MOST_ROWS = 20_000
CUT_OFFS = 4
SHARES = (0.125, 0.25, 0.5, 1.0)
MUCH = 0.04  # of average precision: a share that moves less is noise on as many rows
SHUFFLED, AT_ONCE = (
    3_000,
    20,
)  # rows of validation that importance is measured on; features that are asked at once


def average_precision(part: Part, probability: np.ndarray) -> float | None:
    """Average precision of these probabilities; None without a positive."""
    return (
        float(Ranking.of(part.label, probability).average_precision(np.ones(len(part))))
        if part.label.any()
        else None
    )


def importance(model: Model, part: Part, seed: int) -> dict[str, float]:
    """By how much average precision falls where a feature's values are shuffled, the largest first (Breiman, 2001)."""
    rows, fell = thin(part, SHUFFLED), {}
    order, columns = np.random.default_rng(seed).permutation(len(rows)), list(rows.features.columns)
    whole = average_precision(rows, model.predict_proba(rows.features)) or 0
    for names in [columns[start : start + AT_ONCE] for start in range(0, len(columns), AT_ONCE)]:
        shuffled = [
            rows.features.assign(**{name: rows.features[name].to_numpy()[order]}) for name in names
        ]
        found = model.predict_proba(pd.concat(shuffled, ignore_index=True)).reshape(len(names), -1)
        fell |= {
            name: whole - (average_precision(rows, each) or 0)
            for name, each in zip(names, found, strict=True)
        }
    return dict(sorted(fell.items(), key=lambda item: -item[1]))


def diagnose(name: str, split: Split, schema: FeatureSchema, settings: Mapping) -> dict[str, Any]:
    """The learning curve and the backtest of a candidate beside the baseline, fitted on rows before the holdout.

    - learning: average precision on validation by rows of training.
    - backtest: before each of the cut-offs one model, judged on the rows after it up to the next.
    """
    train, validation = thin(split.train, MOST_ROWS), thin(split.validation, MOST_ROWS // 3)
    sizes = [int(share * len(train)) for share in SHARES]
    past = join(train, validation)
    edges = np.linspace(0, len(past), CUT_OFFS + 3).astype(
        int
    )  # the first model has two stretches behind it
    backtests = [
        (
            each,
            rows_of(past, slice(0, edges[place - 1])),
            rows_of(past, slice(edges[place - 1], edges[place])),
            after,
        )
        for place in range(2, CUT_OFFS + 2)
        for after in [rows_of(past, slice(edges[place], edges[place + 1]))]
        for each in dict.fromkeys([BASELINE, name])
    ]
    curve = [(name, thin(train, size), validation, validation) for size in sizes]

    def judge(job: tuple[str, Part, Part, Part]) -> float | None:
        candidate, known, tuning, judged = job
        if any(len(np.unique(part.label)) < 2 for part in (known, tuning)):
            return None
        own = {"seed": settings["train"]["seed"], **settings.get(candidate, {})}
        return average_precision(
            judged, fit(candidate, known, tuning, schema, own).predict_proba(judged.features)
        )

    find_candidate(
        name
    )  # imported here: threads that import one module at once wait for each other
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(judge, [*curve, *backtests]))
    told = [
        {
            "candidate": job[0],
            "until": job[3].keys["point_at"].iloc[0].isoformat(),
            **_sizes(job[3]),
            "value": value,
        }
        for job, value in zip(backtests, found[len(curve) :], strict=True)
    ]
    steps = [
        {"rows": rows, "average_precision": value}
        for rows, value in zip(sizes, found, strict=False)
    ]
    return {
        "learning": steps,
        "backtest": told,
        "rows": len(past),
        "of_rows": len(split.train) + len(split.validation),
    }


def in_words(
    diagnosis: Mapping[str, Any], on_train: float, on_validation: float, name: str
) -> list[str]:
    """A sentence each on more rows, on fit, and on luck."""
    steps = [
        step["average_precision"]
        for step in diagnosis["learning"]
        if step["average_precision"] is not None
    ]
    gained = steps[-1] - steps[-2] if len(steps) > 1 else 0.0
    more = f"The last doubling of the rows moved average precision by {gained:+.3f}: "
    more += (
        "more days of logs should help."
        if gained > MUCH / 2 * steps[-1]
        else "more days of logs will hardly help."
    )
    gap = (on_train - on_validation) / max(on_train, 1e-9)
    fit = f"On train it is {on_train:.3f}, on validation {on_validation:.3f}: "
    if gap > 10 * MUCH:
        fit += "it has learned much of train by heart (it overfits), so simpler settings or more rows may help."
    elif gap > MUCH:
        fit += "some of train is learned by heart, as is usual."
    else:
        fit += "nothing is learned by heart; if it is low, features are missing (it underfits)."
    pairs = zip(
        [each["value"] for each in diagnosis["backtest"] if each["candidate"] == BASELINE],
        [each["value"] for each in diagnosis["backtest"] if each["candidate"] == name],
        strict=False,
    )
    known = [mine - other for other, mine in pairs if None not in (other, mine)]
    won = sum(lead > 0 for lead in known)
    luck = f"Before {len(known)} earlier cut-offs it would have beaten the baseline {won} times"
    luck += ": not luck." if known and won == len(known) else ", so this result may be luck."
    return [more, fit, luck] if name != BASELINE else [more, fit]


def examples(model: Model, part: Part, probability: np.ndarray) -> list[dict[str, Any]]:
    """Three rows in words: the surest right one, the surest wrong one, and one that was missed."""
    positive = part.label == 1
    asked = {
        "surest, and right": np.where(positive, probability, -1),
        "surest, and wrong": np.where(positive, -1, probability),
        "not expected, but it came": np.where(positive, 1 - probability, -1),
    }
    places = [int(score.argmax()) for score in asked.values()]
    rows = part.features.iloc[places]
    method, told = ", estimated by occlusion" if is_estimate(model) else "", []
    for what, place, (_, values), (_, moved) in zip(
        asked, places, rows.iterrows(), explain(model, rows).iterrows(), strict=True
    ):
        strongest = moved[moved.abs().sort_values(ascending=False).index[:3]]
        reasons = [
            f"{name.replace('_', ' ')} is {_word(values[name])} ({by:+.2f}{method})"
            for name, by in strongest.items()
            if by
        ]
        told.append({"what": what, "probability": float(probability[place]), "reasons": reasons})
    return told


def _word(value: Any) -> str:
    if pd.isna(value):
        return "not known"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _sizes(part: Part) -> dict[str, int]:
    return {"rows": len(part), "positives": int(part.label.sum())}
