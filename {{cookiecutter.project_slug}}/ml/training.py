"""From a snapshot's sessions to candidates that can be compared."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from ml.candidates import load_module
from ml.evaluate import by_slice, calibration_chance, curves, difference, metrics
from ml.gate import choose
from ml.leak import look_for_leaks
from ml.schema import FeatureSchema
from ml.split import Split, by_time


def prepare(sessions: pd.DataFrame, settings: Mapping) -> tuple[Split, FeatureSchema]:
    """The sessions that teach, split by time, and the schema of their features; raises CannotLearn."""
    split = by_time(sessions, **settings["split"])
    return split, FeatureSchema.from_frame(split.train.features)


def fit_candidate(name: str, split: Split, schema: FeatureSchema, settings: Mapping, folder: Path) -> dict[str, Any]:
    """Fit one candidate, save it below `folder`, and return its probabilities, its sentence and its importance.

    `settings` is project.toml; the candidate gets its own section and [train] seed. The holdout is scored here, once.
    Importance is each feature's mean absolute contribution to the log-odds, the largest first.
    """
    module = load_module(name)
    own = {"seed": settings["train"]["seed"], **settings.get(name, {})}
    model = module.fit(split.train, split.validation, schema, own)
    _save_whole(module, model, folder)
    contributions = module.explain(model, split.validation.features)
    importance = contributions.abs().mean().sort_values(ascending=False, kind="stable")
    return {
        "validation": module.predict_proba(model, split.validation.features),
        "holdout": module.predict_proba(model, split.holdout.features),
        "description": module.describe(model),
        "importance": importance.to_dict(),
    }


def _save_whole(module: ModuleType, model: Any, folder: Path) -> None:
    """Each file whole or not at all: what a killed run leaves behind may still write the same ones."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as draft:
        module.save(model, Path(draft))
        for path in [path for path in Path(draft).rglob("*") if path.is_file()]:
            target = folder / path.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def compare(split: Split, schema: FeatureSchema, fitted: Mapping[str, Mapping], settings: Mapping) -> dict[str, Any]:
    """The figures of a run: each candidate on validation and holdout, its lead over the rule, and which one is chosen.

    The choice looks at validation alone; the holdout only says how good the choice is.
    """
    costs = {name: settings["decision"][name] for name in ("value_of_hit", "cost_of_alarm")}
    threshold = costs["cost_of_alarm"] / (costs["cost_of_alarm"] + costs["value_of_hit"])
    resampling = {"resamples": settings["evaluate"]["resamples"], "seed": settings["train"]["seed"]}
    label = split.holdout.label
    rows = pd.concat([split.holdout.keys, split.holdout.features], axis=1)
    slices = rows[[name for name in settings["evaluate"]["slices"] if name in rows.columns]]
    candidates = {}
    for name, one in fitted.items():
        candidates[name] = {
            "description": one["description"],
            "importance": one["importance"],
            "validation": metrics(split.validation.label, one["validation"], threshold, **costs, resamples=0, seed=0),
            "holdout": metrics(label, one["holdout"], threshold, **costs, **resampling),
            "slices": by_slice(slices, label, one["holdout"]),
            "curves": curves(label, one["holdout"]),
            "calibration_chance": calibration_chance(one["holdout"], resampling["seed"]),
        }
        if "rule" in fitted:
            candidates[name]["against_rule"] = difference(
                label, one["holdout"], fitted["rule"]["holdout"], **resampling
            )
    return {
        "chosen": choose({name: one["validation"] for name, one in candidates.items()}),
        "threshold": threshold,
        "split": split.summary(),
        "leaks": look_for_leaks(split, schema),
        "candidates": candidates,
    }


def holdout_predictions(split: Split, fitted: Mapping[str, Mapping]) -> pd.DataFrame:
    """The holdout's keys and labels with one column of probabilities per candidate."""
    probabilities = {name: one["holdout"] for name, one in fitted.items()}
    return split.holdout.keys.assign(label=split.holdout.label, **probabilities)
