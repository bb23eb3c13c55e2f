"""Logistic regression: every feature adds its weight to the log-odds.

Choose it when rows are few, when each weight must be defended, or when XGBoost is not clearly better.
Settings: `strength` (inverse of the regularisation, 1.0), `seed`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from ml.schema import FeatureSchema
from ml.split import Part

TRUSTED = ["numpy.dtype"]  # beyond the types of scikit-learn and numpy that skops knows to be harmless
SKEWED = 2.0


@dataclass(frozen=True)
class Logistic:
    """A fitted pipeline over the schema's numbers, then its categories' codes."""

    schema: FeatureSchema
    pipeline: Pipeline
    owners: list[str]  # the feature behind each column that the regression sees
    centre: list[float]  # the mean of each such column in training


def fit(train: Part, validation: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Logistic:
    """The regression on the training rows; validation is not needed."""
    values = _inputs(schema, train.features)
    pipeline = make_pipeline(
        _columns(schema, values),
        LogisticRegression(C=settings.get("strength", 1.0), max_iter=1000, random_state=settings.get("seed", 0)),
    )
    pipeline.fit(values, train.label)
    seen = pipeline[:-1].transform(values)
    return Logistic(schema, pipeline, _owners(schema, pipeline[0]), np.asarray(seen.mean(axis=0)).ravel().tolist())


def predict_proba(model: Logistic, features: pd.DataFrame) -> np.ndarray:
    """The probability of the outcome for each row."""
    if not len(features):
        return np.empty(0)
    return model.pipeline.predict_proba(_inputs(model.schema, features))[:, 1]


def explain(model: Logistic, features: pd.DataFrame) -> pd.DataFrame:
    """Weight times distance from the training mean, summed by feature.

    Source: for a linear model these are the Shapley values, Lundberg and Lee (2017), corollary 1.
    """
    columns = model.pipeline[:-1].transform(_inputs(model.schema, features))
    columns = columns.toarray() if sparse.issparse(columns) else columns
    moved = (columns - np.array(model.centre)) * model.pipeline[-1].coef_[0]
    belongs = np.array(model.owners)[:, None] == np.array(model.schema.names)[None, :]
    return pd.DataFrame(moved @ belongs, index=features.index, columns=model.schema.names)


def describe(model: Logistic) -> str:
    """One sentence with the three heaviest features."""
    weights = pd.Series(np.abs(model.pipeline[-1].coef_[0])).groupby(model.owners).max()
    heaviest = [name.replace("_", " ") for name in weights.sort_values(ascending=False, kind="stable").index[:3]]
    return f"A weighted sum over {len(model.schema.names)} features; {', '.join(heaviest)} weigh most."


def save(model: Logistic, folder: Path) -> None:
    """Writes model.skops and model.json into the folder."""
    skops.io.dump(model.pipeline, folder / "model.skops")
    stored = {"schema": model.schema.to_dict(), "owners": model.owners, "centre": model.centre}
    (folder / "model.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Logistic:
    """The model that `save` wrote; an archive with any other type inside is refused before anything of it runs."""
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    pipeline = skops.io.load(folder / "model.skops", trusted=TRUSTED)
    return Logistic(FeatureSchema.from_dict(stored["schema"]), pipeline, stored["owners"], stored["centre"])


def _inputs(schema: FeatureSchema, features: pd.DataFrame) -> np.ndarray:
    values = schema.matrix(features, [*schema.numbers, *schema.categories])
    codes = values[:, len(schema.numbers) :]
    codes[np.isnan(codes)] = -1  # a code of no category: the encoder ignores it
    return values


def _columns(schema: FeatureSchema, values: np.ndarray) -> ColumnTransformer:
    width = len(schema.numbers)
    skewed = [place for place in range(width) if _is_skewed_count(values[:, place])]
    others = [place for place in range(width) if place not in skewed]
    known = [f.categories for f in schema.features if f.kind == "category"]
    texts = [width + place for place, values_known in enumerate(known) if values_known]
    codes = [np.arange(len(values_known)) for values_known in known if values_known]
    # no logarithm of what training never saw: a count is not below zero
    tamed = make_pipeline(_filled(), FunctionTransformer(np.abs), FunctionTransformer(np.log1p), StandardScaler())
    return ColumnTransformer(
        [
            ("skewed", tamed, skewed),
            ("numbers", make_pipeline(_filled(), StandardScaler()), others),
            ("categories", OneHotEncoder(categories=codes, handle_unknown="ignore"), texts),
        ]
    )


def _filled() -> SimpleImputer:
    return SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)


def _is_skewed_count(column: np.ndarray) -> bool:
    known = column[~np.isnan(column)]
    if not len(known) or known.min() < 0 or (spread := known.std()) == 0:
        return False
    return bool((((known - known.mean()) / spread) ** 3).mean() > SKEWED)


def _owners(schema: FeatureSchema, columns: ColumnTransformer) -> list[str]:
    owners = []
    for name in ("skewed", "numbers"):
        places = next(places for step, _, places in columns.transformers_ if step == name)
        owners += [schema.numbers[place] for place in places]
        if places:
            indicator = columns.named_transformers_[name][0].indicator_
            owners += [schema.numbers[places[place]] for place in indicator.features_]
    return owners + [f.name for f in schema.features if f.kind == "category" for _ in f.categories]
