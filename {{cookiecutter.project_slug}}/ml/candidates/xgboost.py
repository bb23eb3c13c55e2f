"""XGBoost: many small trees that find thresholds, categories and how they act together.

Choose it when rows are many and its lead over logistic regression is clear; it needs the most care to explain.
Settings: `increasing` (features that may never lower the score), `rounds` (trees at most), `patience` (rounds without
a gain on validation), and XGBoost's own parameters.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

from ml.schema import FeatureSchema
from ml.split import Part

USUAL = {"eta": 0.08, "max_depth": 4, "min_child_weight": 5, "subsample": 0.8, "colsample_bytree": 0.8}
USUAL |= {"lambda": 2.0, "max_bin": 128, "seed": 0, "nthread": 1, "objective": "binary:logistic"}

# what a search may try: lowest and highest
SEARCHED = {"max_depth": (2, 6), "eta": (0.02, 0.2), "min_child_weight": (1, 40), "lambda": (0.5, 30.0)}
SEARCHED |= {"subsample": (0.5, 1.0), "colsample_bytree": (0.3, 1.0)}


@dataclass(frozen=True)
class Trees:
    """A booster that reads the schema's matrix."""

    schema: FeatureSchema
    booster: xgboost.Booster


def fit(train: Part, validation: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Trees:
    """Trees on the training rows, as many as lower the log loss on validation."""
    given = {"rounds": 600, "patience": 30, "increasing": ["cart_add_count"]} | USUAL | settings
    rounds, patience, increasing = (given.pop(name) for name in ("rounds", "patience", "increasing"))
    monotone = tuple(int(f.name in increasing and f.kind == "number") for f in schema.features)
    booster = xgboost.train(
        given | {"monotone_constraints": monotone},
        _matrix(schema, train.features, train.label),
        num_boost_round=rounds,
        evals=[(_matrix(schema, validation.features, validation.label), "validation")],
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    return Trees(schema, booster[: booster.best_iteration + 1])


def predict_proba(model: Trees, features: pd.DataFrame) -> np.ndarray:
    """The probability of the outcome for each row."""
    if not len(features):
        return np.empty(0)
    return model.booster.inplace_predict(model.schema.matrix(features)).astype(float)


def explain(model: Trees, features: pd.DataFrame) -> pd.DataFrame:
    """What each feature moved a row's log-odds by. Source: TreeSHAP, Lundberg et al. (2020), as XGBoost has it."""
    moved = model.booster.predict(_matrix(model.schema, features), pred_contribs=True)[:, :-1]
    return pd.DataFrame(moved.astype(float), index=features.index, columns=model.schema.names)


def describe(model: Trees) -> str:
    """One sentence."""
    return f"{model.booster.num_boosted_rounds()} small trees over {len(model.schema.names)} features."


def save(model: Trees, folder: Path) -> None:
    """Writes model.ubj (XGBoost's own format) and model.json into the folder."""
    model.booster.save_model(folder / "model.ubj")
    stored = {"schema": model.schema.to_dict()}
    (folder / "model.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Trees:
    """The model that `save` wrote, on one thread: more of them slow a server down."""
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    booster = xgboost.Booster({"nthread": 1}, model_file=folder / "model.ubj")
    return Trees(FeatureSchema.from_dict(stored["schema"]), booster)


def _matrix(schema: FeatureSchema, features: pd.DataFrame, label: np.ndarray | None = None) -> xgboost.DMatrix:
    kinds = ["q" if feature.kind == "number" else "c" for feature in schema.features]
    return xgboost.DMatrix(schema.matrix(features), label, feature_types=kinds, enable_categorical=True, nthread=1)
