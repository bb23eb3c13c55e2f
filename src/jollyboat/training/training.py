"""From a snapshot's sessions to candidates that can be compared."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.diagnosis import (
    MOST_ROWS,
    average_precision,
    diagnose,
    examples,
    importance,
    in_words,
)
from jollyboat.training.estimators import BASELINE, Model, fit, refit, search_ranges
from jollyboat.training.evaluate import calibration_chance, curves, difference, metrics
from jollyboat.training.explanation import describe
from jollyboat.training.leak import look_for_leaks
from jollyboat.training.persistence import load, save
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.search import search
from jollyboat.training.segments import by_segment, search_segments, segment_columns
from jollyboat.training.split import Part, Split, by_time, thin

SEGMENT_RESAMPLES = 100


def prepare(sessions: pd.DataFrame, settings: Mapping) -> tuple[Split, FeatureSchema]:
    """The sessions that teach, split by time, and the schema of their features; raises UserError."""
    split = by_time(sessions, **settings["split"])
    return split, FeatureSchema.from_frame(split.train.features)


def fit_candidate(
    name: str, split: Split, schema: FeatureSchema, settings: Mapping, folder: Path
) -> dict[str, Any]:
    """Fit one candidate, save it in `folder`, and return its probabilities, its sentence and its importance.

    `settings` is project.toml; the candidate gets its own section and [train] seed. The model of train alone is judged
    on validation. The one that is fitted again on both is saved, and scores the holdout, here and once.
    """
    own, history = {"seed": settings["train"]["seed"], **settings.get(name, {})}, None
    if settings["train"].get("trials") and search_ranges(name):
        file = folder.parent.parent / "search" / f"{name}.jsonl"
        found, history = search(name, split, schema, own, settings["train"], file)
        own |= found
    first = fit(name, split.train, split.validation, schema, own)
    model = refit(name, first, split.train, split.validation, own)
    _save_whole(model, folder)
    known = thin(split.train, MOST_ROWS)
    return {
        "validation": first.predict_proba(split.validation.features),
        "holdout": model.predict_proba(split.holdout.features),
        "description": describe(model),
        "search": history,
        "is_refit": model.classifier is not first.classifier,
        "importance": importance(first, split.validation, own["seed"]),
        "on_train": average_precision(known, first.predict_proba(known.features)),
    }


def _save_whole(model: Model, folder: Path) -> None:
    """Each file whole or not at all: what a killed run leaves behind may still write the same ones."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as draft:
        save(model, Path(draft))
        for path in [path for path in Path(draft).rglob("*") if path.is_file()]:
            target = folder / path.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def compare(
    split: Split,
    schema: FeatureSchema,
    fitted: Mapping[str, Mapping],
    settings: Mapping,
    saved: Path,
) -> dict[str, Any]:
    """The figures of a run: each candidate on validation and holdout, its lead over the baseline, and the choice.

    The choice looks at validation alone; the holdout only says how good the choice is. Intervals are resampled by
    person where persons are known. `saved` is the folder of the saved candidates.
    """
    costs = {name: settings["decision"][name] for name in ("value_of_hit", "cost_of_alarm")}
    threshold = costs["cost_of_alarm"] / (costs["cost_of_alarm"] + costs["value_of_hit"])
    seed, label = settings["train"]["seed"], split.holdout.label
    resampling = {
        "resamples": settings["evaluate"]["resamples"],
        "seed": seed,
        "groups": persons(split.holdout),
    }
    baseline = fitted[BASELINE]["holdout"] if BASELINE in fitted else None
    segments = segment_columns(split.holdout, settings["evaluate"]["segments"])
    candidates = {}
    for name, one in fitted.items():
        is_compared = baseline is not None and name != BASELINE
        against = (baseline, SEGMENT_RESAMPLES, seed, resampling["groups"]) if is_compared else ()
        candidates[name] = {
            "description": one["description"],
            "search": one["search"],
            "is_refit": one["is_refit"],
            "importance": one["importance"],
            "on_train": one["on_train"],
            "validation": metrics(
                split.validation.label, one["validation"], threshold, **costs, resamples=0, seed=0
            ),
            "holdout": metrics(label, one["holdout"], threshold, **costs, **resampling),
            "segments": by_segment(segments, label, one["holdout"], *against),
            "curves": curves(label, one["holdout"]),
            "calibration_chance": calibration_chance(one["holdout"], seed),
        }
        if baseline is not None:
            candidates[name]["against_baseline"] = difference(
                label, one["holdout"], baseline, **resampling
            )
    chosen = choose({name: one["validation"] for name, one in candidates.items()})
    best = candidates[chosen]
    best["found_segments"] = search_segments(split.holdout, schema, fitted[chosen]["holdout"], seed)
    best["examples"] = examples(load(saved / chosen), split.holdout, fitted[chosen]["holdout"])
    diagnosis = diagnose(chosen, split, schema, settings)
    precision = best["validation"]["average_precision"]["value"]
    return {
        "chosen": chosen,
        "threshold": threshold,
        "split": split.summary(),
        "tenants": int(split.holdout.keys["tenant_id"].nunique()),
        "persons": None if resampling["groups"] is None else int(resampling["groups"].max() + 1),
        "leaks": look_for_leaks(split, schema),
        "diagnosis": diagnosis
        | {"sentences": in_words(diagnosis, best["on_train"], precision, chosen)},
        "candidates": candidates,
    }


def choose(metrics_on_validation: Mapping[str, Mapping]) -> str:
    """The candidate with the best average precision; they come in order of complexity, and ties go to the simpler."""
    return max(
        metrics_on_validation,
        key=lambda name: metrics_on_validation[name]["average_precision"]["value"],
    )


def persons(part: Part) -> np.ndarray | None:
    """A number for each row's person, which says nothing about who that is; None where persons are not known."""
    if "person_id" not in part.keys:
        return None
    known = part.keys.assign(
        person_id=part.keys["person_id"].fillna(part.keys["entity_id"])
    )  # else all are one person
    return known.groupby(["tenant_id", "person_id"], dropna=False, sort=False).ngroup().to_numpy()


def holdout_predictions(split: Split, fitted: Mapping[str, Mapping]) -> pd.DataFrame:
    """The holdout's keys and labels with one column of probabilities per candidate; persons are numbered."""
    probabilities = {name: one["holdout"] for name, one in fitted.items()}
    keys, numbers = (
        split.holdout.keys.drop(columns="person_id", errors="ignore"),
        persons(split.holdout),
    )
    known = {} if numbers is None else {"person": numbers}
    return keys.assign(**known, label=split.holdout.label, **probabilities)
