"""What a model reads: the names, kinds and categories of its features, fixed when it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ml.errors import CannotLearn

MOST_CATEGORIES = 50
LARGEST = 1e30  # XGBoost computes in float32, where larger numbers turn into infinity


class UnusableFeatures(CannotLearn):
    """A sentence that names the columns a model cannot read, and the way out."""


@dataclass(frozen=True)
class Feature:
    """One column: a number, or a category with the values that training knew."""

    name: str
    kind: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeatureSchema:
    """The ordered features of a model; turns any frame that holds them into the matrix it was trained on."""

    features: tuple[Feature, ...]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, most_categories: int = MOST_CATEGORIES) -> FeatureSchema:
        """The schema of a training frame; a category keeps its most frequent values, the rest count as missing."""
        if not len(frame.columns):
            raise UnusableFeatures(
                "There is no feature to learn from: add one to dbt's features_at_point, then `make data`."
            )
        return cls(tuple(_feature(frame[name], most_categories) for name in frame.columns))

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> FeatureSchema:
        """The schema that `to_dict` wrote."""
        return cls(tuple(Feature(f["name"], f["kind"], tuple(f.get("categories", ()))) for f in stored["features"]))

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain values, for JSON."""
        return {
            "features": [
                {"name": f.name, "kind": f.kind} | ({"categories": list(f.categories)} if f.kind == "category" else {})
                for f in self.features
            ]
        }

    @cached_property
    def names(self) -> list[str]:
        """All features, in order."""
        return [feature.name for feature in self.features]

    @cached_property
    def numbers(self) -> list[str]:
        """The features that are numbers, in order."""
        return [feature.name for feature in self.features if feature.kind == "number"]

    @cached_property
    def categories(self) -> list[str]:
        """The features that are categories, in order."""
        return [feature.name for feature in self.features if feature.kind == "category"]

    @cached_property
    def _codes(self) -> dict[str, dict[str, float]]:
        return {f.name: {value: float(code) for code, value in enumerate(f.categories)} for f in self.features}

    def matrix(self, frame: pd.DataFrame, names: list[str] | None = None) -> np.ndarray:
        """Rows by features as float64: numbers as they are, categories as codes; null, infinite and unseen are NaN.

        `names` takes some of the features only. Raises `UnusableFeatures` when a column is missing or of another kind.
        """
        names = self.names if names is None else names
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise UnusableFeatures(
                f"The features lack {', '.join(missing)}, which the model was trained on: "
                "put the column back into dbt's features_at_point, or train again with `make data train`."
            )
        result = np.empty((len(frame), len(names)))
        for place, name in enumerate(names):
            result[:, place] = self._column(frame[name])
        return result

    def _column(self, column: pd.Series) -> np.ndarray:
        if self._kinds[column.name] == "number":
            return _numbers(column)
        codes = self._codes[column.name]
        return np.array([codes.get(text, np.nan) for text in _texts(column)], dtype=float)

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return {feature.name: feature.kind for feature in self.features}


def _feature(column: pd.Series, most_categories: int) -> Feature:
    if _is_number(column):
        return Feature(column.name, "number")
    counts = pd.Series([text for text in _texts(column) if text is not None], dtype=object).value_counts()
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Feature(column.name, "category", tuple(sorted(value for value, _ in by_count[:most_categories])))


def _is_number(column: pd.Series) -> bool:
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind in ("floating", "integer", "mixed-integer-float", "boolean", "decimal"):
        return True
    if kind in ("string", "empty", "categorical"):
        # a column of nulls has no values to tell its kind by: its type does
        return kind == "empty" and column.dtype.kind in "fiub"
    raise UnusableFeatures(
        f"The feature {column.name} holds {kind} values, and a model reads numbers and text: "
        "turn it into a number (say, seconds since) or a text in dbt's features_at_point, then `make data`."
    )


def _numbers(column: pd.Series) -> np.ndarray:
    try:
        values = column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UnusableFeatures(
            f"The feature {column.name} was a number in training and is {column.dtype} here: "
            "cast it in dbt's features_at_point, or train again with `make data train`."
        ) from error
    return np.clip(np.where(np.isfinite(values), values, np.nan), -LARGEST, LARGEST)


def _texts(column: pd.Series) -> list[str | None]:
    values = column.tolist()
    return [value if isinstance(value, str) else None if pd.isna(value) else str(value) for value in values]
