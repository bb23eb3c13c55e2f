"""Training: split sessions, fit candidates, compare them, and choose one."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.store import suggest
from jollyboat.training.dependence import dependence
from jollyboat.training.diagnosis import (
    MOST_ROWS,
    average_precision,
    diagnose,
    examples,
    format_diagnosis,
    importance,
)
from jollyboat.training.estimators import BASELINE, fit, refit, search_ranges
from jollyboat.training.evaluate import calibration_chance, curves, difference, metrics
from jollyboat.training.explanation import describe
from jollyboat.training.leak import describe_leaks, look_for_leaks
from jollyboat.training.persistence import load, save
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.search import search
from jollyboat.training.segments import by_segment, search_segments, segment_columns
from jollyboat.training.split import Part, Split, by_time, thin

SEGMENT_RESAMPLES = 100


def prepare(
    rows: pd.DataFrame, settings: Mapping, horizon_days: int = 0
) -> tuple[Split, FeatureSchema]:
    """The training rows split by time, and the schema of their features; raises UserError."""
    split = by_time(rows, **settings["split"], horizon_days=horizon_days)
    return split, FeatureSchema.from_frame(split.train.features)


def fit_candidate(
    name: str, split: Split, schema: FeatureSchema, settings: Mapping, folder: Path
) -> dict[str, Any]:
    """Fit one candidate, save it in `folder`, and return its probabilities and descriptions.

    `settings` is project.toml; the candidate gets its own section and [train] seed. The model of
    train alone predicts validation. The model of train and validation is saved, and predicts the
    holdout once.
    """
    own, history = {"seed": settings["train"]["seed"], **settings.get(name, {})}, None
    if settings["train"].get("trials") and search_ranges(name):
        file = folder.parent.parent / "search" / f"{name}.jsonl"
        best, history = search(name, split, schema, own, settings["train"], file)
        own |= best
    first = fit(name, split.train, split.validation, schema, own)
    model = refit(name, first, split.train, split.validation, own)
    save_atomically(partial(save, model), folder)
    sample = thin(split.train, MOST_ROWS)
    return {
        "validation": first.predict_proba(split.validation.features),
        "holdout": model.predict_proba(split.holdout.features),
        "description": describe(model),
        "search": history,
        "is_refit": model.classifier is not first.classifier,
        "importance": importance(first, split.validation, own["seed"]),
        "on_train": average_precision(sample, first.predict_proba(sample.features)),
    }


def save_atomically(write: Callable[[Path], None], folder: Path) -> None:
    """Replace each file that `write` writes whole: tasks of a killed run may still write it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as draft:
        write(Path(draft))
        for path in Path(draft).iterdir():
            path.replace(folder / path.name)


def compare(
    split: Split,
    schema: FeatureSchema,
    fitted: Mapping[str, Mapping],
    settings: Mapping,
    saved: Path,
    horizon_days: int = 0,
) -> dict[str, Any]:
    """The figures of a run: each candidate on validation and holdout, and the chosen one.

    Only validation decides the choice. Intervals are resampled by person where persons are known.
    `saved` is the folder of the saved candidates.
    """
    judge = _Judge(split, settings, fitted.get(BASELINE))
    candidates = {name: judge.figures(name, one) for name, one in fitted.items()}
    chosen = choose({name: one["validation"] for name, one in candidates.items()})
    best, probability = candidates[chosen], fitted[chosen]["holdout"]
    best["found_segments"] = search_segments(split.holdout, schema, probability, judge.seed)
    model = load(saved / chosen)
    best["examples"] = examples(model, split.holdout, probability)
    best["dependence"] = dependence(model, split.holdout, best["importance"])
    diagnosis = diagnose(chosen, split, schema, settings, horizon_days)
    on_validation = best["validation"]["average_precision"]["value"]
    sentences = format_diagnosis(diagnosis, best["on_train"], on_validation, chosen)
    leaks = look_for_leaks(split, schema)
    return {
        "chosen": chosen,
        "threshold": judge.threshold,
        "split": split.summary(),
        "tenants": int(split.holdout.keys["tenant_id"].nunique()),
        "persons": None if judge.persons is None else int(judge.persons.max() + 1),
        "leaks": leaks,
        "warnings": [
            *misspelt_features(schema.names, settings),
            *describe_leaks(leaks),
            *schema.describe_crowded(split.train.features),
        ],
        "diagnosis": diagnosis | {"sentences": sentences},
        "candidates": candidates,
    }


def misspelt_features(features: Sequence[str], settings: Mapping) -> list[str]:
    """A sentence for each name in the settings that is nearly a feature's, and is none.

    A name that is far from all features may be another question's.
    """
    named = {
        "segments under [evaluate]": settings["evaluate"]["segments"],
        "features under [baseline]": settings.get("baseline", {}).get("features", []),
        "increasing under [xgboost]": settings.get("xgboost", {}).get("increasing", []),
    }
    return [
        f"No feature has the name {name!r} of {place} in project.toml.{hint}"
        for place, names in named.items()
        for name in names
        if name not in (*features, "day", "tenant_id") and (hint := suggest(name, features))
    ]


class _Judge:
    """Computes each candidate's figures on validation and holdout."""

    def __init__(self, split: Split, settings: Mapping, baseline: Mapping | None) -> None:
        self.split = split
        self.costs = {
            name: settings["decision"][name] for name in ("value_of_hit", "cost_of_alarm")
        }
        self.threshold = self.costs["cost_of_alarm"] / sum(self.costs.values())
        self.seed, self.persons = settings["train"]["seed"], persons(split.holdout)
        self.resamples = settings["evaluate"]["resamples"]
        self.baseline = None if baseline is None else baseline["holdout"]
        self.segments = segment_columns(split.holdout, settings["evaluate"]["segments"])

    def figures(self, name: str, fitted: Mapping) -> dict[str, Any]:
        """The figures of one result of `fit_candidate`."""
        label, probability = self.split.holdout.label, fitted["holdout"]
        resampling = {"resamples": self.resamples, "seed": self.seed, "groups": self.persons}
        is_compared = self.baseline is not None and name != BASELINE
        against = (self.baseline, SEGMENT_RESAMPLES, self.seed, self.persons) if is_compared else ()
        kept = ("description", "search", "is_refit", "importance", "on_train")
        figures = {key: fitted[key] for key in kept} | {
            "validation": self._metrics(
                self.split.validation.label, fitted["validation"], resamples=0, seed=0
            ),
            "holdout": self._metrics(label, probability, **resampling),
            "segments": by_segment(self.segments, label, probability, *against),
            "curves": curves(label, probability),
            "calibration_chance": calibration_chance(probability, self.seed),
        }
        if self.baseline is not None:
            lead = difference(label, probability, self.baseline, **resampling)
            figures["against_baseline"] = lead
        return figures

    def _metrics(self, label: np.ndarray, probability: np.ndarray, **resampling) -> dict[str, Any]:
        return metrics(label, probability, self.threshold, **self.costs, **resampling)


def choose(metrics_on_validation: Mapping[str, Mapping]) -> str:
    """The candidate with the best average precision; of equals the first, which is the simplest."""
    return max(
        metrics_on_validation,
        key=lambda name: metrics_on_validation[name]["average_precision"]["value"],
    )


def persons(part: Part) -> np.ndarray | None:
    """An anonymous number for each row's person; None where persons are not known."""
    if "person_id" not in part.keys:
        return None
    # without an id, each session is a person of its own
    person_id = part.keys["person_id"].fillna(part.keys["entity_id"])
    keys = part.keys.assign(person_id=person_id)
    return keys.groupby(["tenant_id", "person_id"], dropna=False, sort=False).ngroup().to_numpy()


def holdout_predictions(split: Split, fitted: Mapping[str, Mapping]) -> pd.DataFrame:
    """The holdout's keys and labels, numbered persons, and each candidate's probabilities."""
    keys = split.holdout.keys.drop(columns="person_id", errors="ignore")
    numbers = persons(split.holdout)
    person = {} if numbers is None else {"person": numbers}
    probabilities = {name: one["holdout"] for name, one in fitted.items()}
    return keys.assign(**person, label=split.holdout.label, **probabilities)
