"""Whether training was optimal: more rows, overfit or underfit, luck, and important features.

Everything here uses rows before the holdout, at most MOST_ROWS of them, evenly spaced.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.store.limits import core_count
from jollyboat.training.estimators import BASELINE, Model, find_candidate, fit
from jollyboat.training.evaluate import Ranking, difference
from jollyboat.training.explanation import explain, is_estimate
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part, Split, join, rows_of, thin

MOST_ROWS = 20_000
CUT_OFFS = 4
SHARES = (0.125, 0.25, 0.5, 1.0)
NOTABLE = 0.04  # relative change of average precision; less is noise on as many rows
IMPORTANCE_ROWS = 3_000
BATCH = 20  # features that one prediction shuffles


def average_precision(part: Part, probability: np.ndarray) -> float | None:
    """Average precision of these probabilities; None without a positive."""
    if not part.label.any():
        return None
    ranking = Ranking.of(part.label, probability)
    return float(ranking.average_precision(np.ones(len(part))))


def importance(model: Model, part: Part, seed: int) -> dict[str, float]:
    """The drop of average precision when a feature is shuffled, largest first (Breiman, 2001)."""
    rows, drops = thin(part, IMPORTANCE_ROWS), {}
    order, columns = np.random.default_rng(seed).permutation(len(rows)), list(rows.features.columns)
    whole = average_precision(rows, model.predict_proba(rows.features)) or 0
    for start in range(0, len(columns), BATCH):
        names = columns[start : start + BATCH]
        shuffled = [
            rows.features.assign(**{name: rows.features[name].to_numpy()[order]}) for name in names
        ]
        probabilities = model.predict_proba(pd.concat(shuffled, ignore_index=True))
        for name, own in zip(names, probabilities.reshape(len(names), -1), strict=True):
            drops[name] = whole - (average_precision(rows, own) or 0)
    return dict(sorted(drops.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class _Job:
    """A candidate to fit on `train` and `validation`, and to judge on `judged`."""

    candidate: str
    train: Part
    validation: Part
    judged: Part

    def run(self, schema: FeatureSchema, settings: Mapping) -> np.ndarray | None:
        """Probabilities of `judged`; None where training lacks a class or `judged` a positive."""
        parts = (self.train, self.validation)
        if any(len(np.unique(part.label)) < 2 for part in parts) or not self.judged.label.any():
            return None
        own = {"seed": settings["train"]["seed"], **settings.get(self.candidate, {})}
        model = fit(self.candidate, self.train, self.validation, schema, own)
        return model.predict_proba(self.judged.features)


def diagnose(
    name: str,
    split: Split,
    schema: FeatureSchema,
    settings: Mapping,
    horizon_days: int = 0,
) -> dict[str, Any]:
    """The learning curve and the backtest of a candidate, with the baseline's backtest.

    - learning: average precision on validation by rows of training.
    - backtest: average precision of a model trained before each cut-off, on the rows from it up
      to the next cut-off.
    - lead: average precision above the baseline's on all rows of the backtest that both predicted.

    No label of a row before a cut-off is decided after it.
    """
    train, validation = thin(split.train, MOST_ROWS), thin(split.validation, MOST_ROWS // 3)
    past = join(train, validation)
    sizes = [int(share * len(train)) for share in SHARES]
    curve = [_Job(name, thin(train, size), validation, validation) for size in sizes]
    gap = pd.Timedelta(days=horizon_days)
    backtests = _backtest_jobs(dict.fromkeys([BASELINE, name]), past, gap)
    find_candidate(name)  # import it here: threads that import one module wait for each other
    with ThreadPoolExecutor(core_count()) as threads:
        jobs = [*curve, *backtests]
        probabilities = list(threads.map(lambda job: job.run(schema, settings), jobs))
    values = [
        None if probability is None else average_precision(job.judged, probability)
        for job, probability in zip(jobs, probabilities, strict=True)
    ]
    return {
        "learning": [
            {"rows": rows, "average_precision": value}
            for rows, value in zip(sizes, values, strict=False)
        ],
        "backtest": [
            {
                "candidate": job.candidate,
                "until": job.judged.keys["point_at"].iloc[0].isoformat(),
                "value": value,
            }
            for job, value in zip(backtests, values[len(curve) :], strict=True)
        ],
        "lead": _lead(backtests, probabilities[len(curve) :], settings),
        "rows": len(past),
        "of_rows": len(split.train) + len(split.validation),
    }


def _lead(
    jobs: list[_Job], probabilities: list[np.ndarray | None], settings: Mapping
) -> dict[str, Any] | None:
    """The lead over the baseline with its rows; None for the baseline, or without a common row."""
    pairs = zip(jobs[::2], probabilities[::2], probabilities[1::2], strict=False)
    folds = [(job.judged, *both) for job, *both in pairs if all(one is not None for one in both)]
    if jobs[0].candidate == jobs[1].candidate or not folds:
        return None
    judged, theirs, mine = zip(*folds, strict=True)
    label = np.concatenate([part.label for part in judged])
    keys = pd.concat([part.keys for part in judged])
    person = keys.get("person_id", keys["entity_id"]).fillna(keys["entity_id"])
    lead = difference(
        label,
        np.concatenate(mine),
        np.concatenate(theirs),
        settings["evaluate"]["resamples"],
        settings["train"]["seed"],
        (keys["tenant_id"] + "|" + person).to_numpy(),
    )
    return lead | {
        "rows": len(label),
        "positives": int(label.sum()),
        "from": keys["point_at"].min().isoformat(),
        "until": keys["point_at"].max().isoformat(),
    }


def _backtest_jobs(candidates: Mapping[str, Any], past: Part, gap: pd.Timedelta) -> list[_Job]:
    """One job per cut-off and candidate; the first cut-off has two stretches of rows before it."""
    edges, times = np.linspace(0, len(past), CUT_OFFS + 3).astype(int), past.keys["point_at"]

    def stretch(first: int, end: int) -> Part:
        """The rows up to `end` whose labels are decided by then."""
        is_decided = times.iloc[first:end] <= times.iloc[end] - gap
        return rows_of(past, first + np.flatnonzero(is_decided))

    jobs = []
    for place in range(2, CUT_OFFS + 2):
        train = stretch(0, edges[place - 1])
        validation = stretch(edges[place - 1], edges[place])
        judged = rows_of(past, slice(edges[place], edges[place + 1]))
        jobs += [_Job(candidate, train, validation, judged) for candidate in candidates]
    return jobs


def format_diagnosis(
    diagnosis: Mapping[str, Any], on_train: float, on_validation: float, name: str
) -> list[str]:
    """One text each on more rows and on fit; for other candidates than the baseline, on luck."""
    texts = [_format_learning(diagnosis["learning"]), _format_fit(on_train, on_validation)]
    return texts if name == BASELINE else [*texts, _format_luck(diagnosis, name)]


def _format_learning(steps: list[Mapping]) -> str:
    values = [step["average_precision"] for step in steps]
    values = [value for value in values if value is not None]
    gain = values[-1] - values[-2] if len(values) > 1 else 0.0
    helps = gain > NOTABLE / 2 * values[-1]
    advice = "More days of logs should help." if helps else "More days of logs will hardly help."
    return f"The last doubling of the rows changed average precision by {gain:+.3f}. {advice}"


def _format_fit(on_train: float, on_validation: float) -> str:
    gap = (on_train - on_validation) / max(on_train, 1e-9)
    if gap > 10 * NOTABLE:
        verdict = "The model overfits: try simpler settings or more rows."
    elif gap > NOTABLE:
        verdict = "The model overfits a little, which is usual."
    else:
        verdict = "The model does not overfit; if both are low, it underfits: features are missing."
    figures = f"{on_train:.3f} on train, {on_validation:.3f} on validation"
    return f"Average precision is {figures}. {verdict}"


def _format_luck(diagnosis: Mapping, name: str) -> str:
    backtest, lead = diagnosis["backtest"], diagnosis.get("lead")
    baseline = [row["value"] for row in backtest if row["candidate"] == BASELINE]
    own = [row["value"] for row in backtest if row["candidate"] == name]
    pairs = [pair for pair in zip(baseline, own, strict=False) if None not in pair]
    if not pairs:
        return "No earlier cut-off has enough outcomes to compare it with the baseline."
    won = sum(mine > theirs for theirs, mine in pairs)
    text = f"It beats the baseline at {won} of {len(pairs)} earlier cut-offs"
    if not lead or lead["low"] is None:
        return f"{text}. The result may be luck."
    verdict = "The lead is significant." if lead["low"] > 0 else "The lead may be luck."
    span = " to ".join(lead[name][:16].replace("T", " ") for name in ("from", "until"))
    return (
        f"{text}. On the {lead['rows']:,} rows after these ({lead['positives']:,} with the "
        f"outcome, {span}) it leads by {lead['value']:+.3f} ({lead['low']:+.3f} to "
        f"{lead['high']:+.3f}). {verdict}"
    )


def examples(model: Model, part: Part, probability: np.ndarray) -> list[dict[str, Any]]:
    """Three explained rows: the surest hit, the surest false alarm, and the clearest miss."""
    positive = part.label == 1
    scores = {
        "most certain and right": np.where(positive, probability, -1),
        "most certain and wrong": np.where(positive, -1, probability),
        "missed outcome": np.where(positive, 1 - probability, -1),
    }
    places = [int(score.argmax()) for score in scores.values()]
    rows = part.features.iloc[places]
    effects = explain(model, rows)
    method = ", estimated by occlusion" if is_estimate(model) else ""
    return [
        {
            "what": what,
            "probability": float(probability[place]),
            "reasons": _reasons(rows.iloc[number], effects.iloc[number], method),
        }
        for number, (what, place) in enumerate(zip(scores, places, strict=True))
    ]


def _reasons(values: pd.Series, effects: pd.Series, method: str) -> list[str]:
    strongest = effects[effects.abs().sort_values(ascending=False).index[:3]]
    return [
        f"{name.replace('_', ' ')} is {_format_value(values[name])} ({effect:+.2f}{method})"
        for name, effect in strongest.items()
        if effect
    ]


def _format_value(value: Any) -> str:
    if pd.isna(value):
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
