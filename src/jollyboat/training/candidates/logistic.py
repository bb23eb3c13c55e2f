"""Logistic regression: every feature adds its weight to the log-odds.

Choose it when rows are few, when each weight must be defended, or when XGBoost is not clearly better.
Settings: `strength` (inverse of the regularisation, 0.1).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from jollyboat.training.line import Line, write_out
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

TRUSTED = ["numpy.dtype"]  # beyond the types of scikit-learn and numpy that skops knows to be harmless
ADDRESS = re.compile(r'("__id__": |"file": ")(\d+)')  # in an archive's schema.json, where text would be escaped
UNKNOWN = -1  # the code of a category that is missing or was never seen

SEARCHED = {"strength": (0.001, 10.0)}  # what a search may try: lowest and highest


@dataclass(frozen=True)
class Logistic:
    """A fitted pipeline over the schema's matrix."""

    schema: FeatureSchema
    pipeline: Pipeline


def fit(train: Part, validation: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Logistic:
    """The regression on the training rows; validation is not needed."""
    pipeline = make_pipeline(
        _columns(schema),
        LogisticRegression(C=settings.get("strength", 0.1), solver="newton-cholesky"),  # rows are many, columns few
    )
    return Logistic(schema, pipeline.fit(_inputs(schema, train.features), train.label))


def refit(model: Logistic, rows: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Logistic:
    """The same on these rows."""
    return fit(rows, rows, schema, settings)


def predict_proba(model: Logistic, features: pd.DataFrame) -> np.ndarray:
    """The probability of the outcome for each row."""
    if not len(features):
        return np.empty(0)
    return model.pipeline.predict_proba(_inputs(model.schema, features))[:, 1]


def explain(model: Logistic, features: pd.DataFrame) -> pd.DataFrame:
    """Weight times value, summed by feature; a number's value is its distance from the training mean, in deviations."""
    moved = line_of(model).add_up(model.schema.matrix(features))
    return pd.DataFrame(moved, index=features.index, columns=model.schema.names)


def line_of(model: Logistic) -> Line:
    """The regression as plain numbers."""
    return write_out(model.pipeline, [feature.kind == "number" for feature in model.schema.features])


def describe(model: Logistic) -> str:
    """One sentence."""
    return f"A weighted sum over {len(model.schema.names)} features."


def save(model: Logistic, folder: Path) -> None:
    """Writes model.skops into the folder."""
    skops.io.dump({"schema": model.schema.to_dict(), "pipeline": model.pipeline}, folder / "model.skops")
    _settle(folder / "model.skops")


def load(folder: Path) -> Logistic:
    """The model that `save` wrote; an archive with any other type inside is refused before anything of it runs."""
    stored = skops.io.load(folder / "model.skops", trusted=TRUSTED)
    return Logistic(FeatureSchema.from_dict(stored["schema"]), stored["pipeline"])


def _settle(archive: Path) -> None:
    """Write the archive again without addresses in memory and times, so that the same model is the same bytes."""
    places: dict[str, int] = {}
    with ZipFile(archive) as written:
        held = {name: written.read(name) for name in written.namelist()}
    text = held.pop("schema.json").decode()
    text = ADDRESS.sub(lambda found: found[1] + str(places.setdefault(found[2], len(places))), text)
    arrays = {f"{places[Path(name).stem]}.npy": held[name] for name in held}
    with ZipFile(archive, "w") as settled:
        for name, content in {"schema.json": text, **dict(sorted(arrays.items()))}.items():
            settled.writestr(ZipInfo(name), content)  # of 1980, as all of its kind


def _inputs(schema: FeatureSchema, features: pd.DataFrame) -> np.ndarray:
    values, coded = schema.matrix(features), [feature.kind == "category" for feature in schema.features]
    return np.where(np.isnan(values) & coded, UNKNOWN, values)


def _columns(schema: FeatureSchema) -> ColumnTransformer:
    numbers = [place for place, feature in enumerate(schema.features) if feature.kind == "number"]
    coded = [place for place, feature in enumerate(schema.features) if feature.kind == "category"]
    codes = [np.arange(UNKNOWN, len(schema.features[place].categories)) for place in coded]
    # arcsinh is a logarithm that bears zero and what is below: counts and seconds are skewed
    tamed = (SimpleImputer(strategy="median", keep_empty_features=True), FunctionTransformer(np.arcsinh))
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(*tamed, StandardScaler()), numbers),
            ("unknown", MissingIndicator(features="all"), numbers),
            ("categories", OneHotEncoder(categories=codes), coded),
        ]
    )
