"""XGBoost: many small trees that find thresholds, categories and how they act together.

Choose it when rows are many and its lead over logistic regression is clear; it needs the most care to explain.
Settings: `seed`, `nthread`, `increasing` (features that may never lower the score), `rounds`, `patience`, and any of
`PARAMETERS` under its own name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

from ml.schema import FeatureSchema
from ml.split import Part

PARAMETERS = {
    "eta": 0.08,
    "max_depth": 4,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "lambda": 2.0,
    "max_bin": 128,
}
INCREASING = ("cart_add_count",)


@dataclass(frozen=True)
class Trees:
    """A booster that reads the schema's matrix."""

    schema: FeatureSchema
    booster: xgboost.Booster


def fit(train: Part, validation: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Trees:
    """Trees on the training rows, as many as lower the log loss on validation."""
    increasing = settings.get("increasing", INCREASING)
    parameters = {
        **{name: settings.get(name, usual) for name, usual in PARAMETERS.items()},
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "seed": settings.get("seed", 0),
        "nthread": settings.get("nthread", 1),
        "monotone_constraints": tuple(int(f.name in increasing and f.kind == "number") for f in schema.features),
    }
    judged = _matrix(schema, validation.features, validation.label)
    booster = xgboost.train(
        parameters,
        _matrix(schema, train.features, train.label),
        num_boost_round=settings.get("rounds", 600),
        evals=[(judged, "validation")],
        early_stopping_rounds=settings.get("patience", 30),
        verbose_eval=False,
    )
    return Trees(schema, booster[: booster.best_iteration + 1])


def predict_proba(model: Trees, features: pd.DataFrame) -> np.ndarray:
    """The probability of the outcome for each row."""
    if not len(features):
        return np.empty(0)
    values = model.schema.matrix(features)
    return model.booster.inplace_predict(values).astype(float)


def explain(model: Trees, features: pd.DataFrame) -> pd.DataFrame:
    """What each feature moved a row's log-odds by. Source: TreeSHAP, Lundberg et al. (2020), as XGBoost has it."""
    moved = model.booster.predict(_matrix(model.schema, features), pred_contribs=True)[:, :-1]
    return pd.DataFrame(moved.astype(float), index=features.index, columns=model.schema.names)


def describe(model: Trees) -> str:
    """One sentence: how many trees, and the three features they gain most by."""
    gain = model.booster.get_score(importance_type="total_gain")
    best = sorted(gain, key=lambda feature: (-gain[feature], int(feature[1:])))[:3]
    names = [model.schema.names[int(feature[1:])].replace("_", " ") for feature in best]
    lead = f"; {', '.join(names)} tell most" if names else ", none of which found anything to ask"
    return f"{model.booster.num_boosted_rounds()} small trees over {len(model.schema.names)} features{lead}."


def save(model: Trees, folder: Path) -> None:
    """Writes model.ubj (XGBoost's own format) and model.json into the folder."""
    model.booster.save_model(folder / "model.ubj")
    (folder / "model.json").write_text(
        json.dumps({"schema": model.schema.to_dict()}, indent=1) + "\n", encoding="utf-8"
    )


def load(folder: Path) -> Trees:
    """The model that `save` wrote, on one thread: more of them slow a server down."""
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    booster = xgboost.Booster({"nthread": 1}, model_file=folder / "model.ubj")
    return Trees(FeatureSchema.from_dict(stored["schema"]), booster)


def _matrix(schema: FeatureSchema, features: pd.DataFrame, label: np.ndarray | None = None) -> xgboost.DMatrix:
    kinds = ["q" if feature.kind == "number" else "c" for feature in schema.features]
    return xgboost.DMatrix(schema.matrix(features), label, feature_types=kinds, enable_categorical=True, nthread=1)
