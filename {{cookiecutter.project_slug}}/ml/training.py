"""From a snapshot's sessions to candidates that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml.candidates import load_module
from ml.evaluate import by_slice, curves, difference, metrics
from ml.gate import choose
from ml.schema import FeatureSchema
from ml.split import Split, by_time

RULE = "rule"


def prepare(sessions: pd.DataFrame, settings: Mapping) -> tuple[Split, FeatureSchema]:
    """The sessions that teach, split by time, and the schema of their features; raises CannotLearn."""
    split = by_time(sessions, **settings["split"])
    return split, FeatureSchema.from_frame(split.train.features)


def fit_candidate(name: str, split: Split, schema: FeatureSchema, settings: Mapping, folder: Path) -> dict[str, Any]:
    """Fit one candidate, save it below `folder`, and return its probabilities of validation and holdout and its sentence.

    `settings` is project.toml; the candidate gets its own section and [train] seed. The holdout is scored here, once.
    """
    module = load_module(name)
    own = {"seed": settings["train"]["seed"], **settings.get(name, {})}
    model = module.fit(split.train, split.validation, schema, own)
    folder.mkdir(parents=True, exist_ok=True)
    module.save(model, folder)
    return {
        "validation": module.predict_proba(model, split.validation.features),
        "holdout": module.predict_proba(model, split.holdout.features),
        "description": module.describe(model),
        "importance": importance(module.explain(model, split.validation.features)),
    }


def importance(contributions: pd.DataFrame) -> dict[str, float]:
    """Each feature's mean absolute contribution to the log-odds, the largest first."""
    sizes = contributions.abs().mean().sort_values(ascending=False, kind="stable")
    return {str(name): float(size) for name, size in sizes.items()}


def compare(split: Split, fitted: Mapping[str, Mapping], settings: Mapping) -> dict[str, Any]:
    """The figures of a run: each candidate on validation and holdout, its lead over the rule, and which one is chosen.

    The choice looks at validation alone; the holdout only says how good the choice is.
    """
    costs = {name: settings["decision"][name] for name in ("value_of_hit", "cost_of_alarm")}
    threshold = costs["cost_of_alarm"] / (costs["cost_of_alarm"] + costs["value_of_hit"])
    resampling = {"resamples": settings["evaluate"]["resamples"], "seed": settings["train"]["seed"]}
    label = split.holdout.label
    slices = slice_columns(split, settings["evaluate"]["slices"])
    candidates = {}
    for name, one in fitted.items():
        candidates[name] = {
            "description": one["description"],
            "importance": one["importance"],
            "validation": metrics(split.validation.label, one["validation"], threshold, **costs, resamples=0, seed=0),
            "holdout": metrics(label, one["holdout"], threshold, **costs, **resampling),
            "slices": by_slice(slices, label, one["holdout"]),
            "curves": curves(label, one["holdout"]),
        }
        if RULE in fitted:
            candidates[name]["against_rule"] = difference(label, one["holdout"], fitted[RULE]["holdout"], **resampling)
    return {
        "chosen": choose({name: one["validation"] for name, one in candidates.items()}),
        "threshold": threshold,
        "split": split.summary(),
        "candidates": candidates,
    }


def slice_columns(split: Split, names: list[str]) -> pd.DataFrame:
    """The holdout's columns to slice by; a name that is no key or feature is left out."""
    rows = pd.concat([split.holdout.keys, split.holdout.features], axis=1)
    return rows[[name for name in names if name in rows.columns]]


def holdout_predictions(split: Split, fitted: Mapping[str, Mapping]) -> pd.DataFrame:
    """The holdout's keys and labels with one column of probabilities per candidate."""
    return split.holdout.keys.assign(
        label=split.holdout.label, **{name: np.asarray(one["holdout"]) for name, one in fitted.items()}
    )
