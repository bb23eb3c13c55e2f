"""The features of a model: names, kinds and categories, fixed when it is trained."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from jollyboat.pages.terminal import format_percent
from jollyboat.store import UserError

MOST_CATEGORIES = 50
CROWDED = 0.2  # share of a category's rows with a value that is not kept
FEW = 1_000  # rows, as in a server's request; lists are faster than pandas for them
LARGEST = 1e30  # XGBoost computes in float32, where larger numbers become infinite
# the types that pandas infers
NUMBERS = ("floating", "integer", "mixed-integer-float", "boolean", "decimal")
TEXTS = ("string", "empty")


@dataclass(frozen=True)
class Feature:
    """One column: a number, or a category with its values in training."""

    name: str
    kind: str
    categories: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: pd.Series) -> Self:
        """The feature of this training column; a category keeps its most frequent values."""
        inferred = pd.api.types.infer_dtype(column.astype(object), skipna=True)
        if pd.api.types.is_numeric_dtype(column) or inferred in NUMBERS:
            return cls(column.name, "number")
        if inferred not in TEXTS:
            raise UserError(
                f"The feature {column.name} holds {inferred} values, but a model reads numbers and "
                "texts only. Convert it to a number (say, seconds since) or a text in dbt's "
                "features_at_point, then run `make data`."
            )
        counts = column.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        return cls(column.name, "category", tuple(sorted(counts.index[:MOST_CATEGORIES])))

    @cached_property
    def codes(self) -> dict[str, float]:
        """The number for each category."""
        return {value: float(code) for code, value in enumerate(self.categories)}

    def values(self, column: pd.Series) -> np.ndarray:
        """The column as float64, categories as codes; null, infinite and unseen are NaN."""
        return _finite(self.numbers(column))

    def numbers(self, column: pd.Series | np.ndarray) -> np.ndarray:
        """The column as float64 with infinite and huge numbers as they are."""
        if self.kind == "category" and len(column) > FEW:
            codes = pd.Index(self.categories, dtype=object).get_indexer(column.astype(object))
            return np.where(codes >= 0, codes, np.nan)
        if self.kind == "category":
            codes = [self.codes.get(value, np.nan) for value in column.tolist()]
            return np.array(codes, dtype=float)
        if column.dtype == object:
            values = [np.nan if value is pd.NA else value for value in column.tolist()]
            return np.array(values, dtype=float)
        return column.to_numpy(dtype=float, na_value=np.nan)


@dataclass(frozen=True)
class FeatureSchema:
    """The ordered features of a model; makes its input matrix from a frame that has them."""

    features: tuple[Feature, ...]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """The schema of a training frame."""
        return cls(tuple(Feature.of(frame[name]) for name in frame.columns))

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """The schema that `to_dict` wrote."""
        features = stored["features"]
        return cls(
            tuple(Feature(f["name"], f["kind"], tuple(f.get("categories", ()))) for f in features)
        )

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain values, for JSON."""
        return asdict(self)

    def describe_crowded(self, frame: pd.DataFrame) -> list[str]:
        """A sentence for each category that has too many values to learn from."""
        sentences = []
        for feature in self.features:
            if len(feature.categories) < MOST_CATEGORIES:
                continue
            values = frame[feature.name].dropna()
            lost = 1 - values.isin(feature.categories).mean()
            if lost > CROWDED:
                sentences.append(
                    f"{feature.name} has {values.nunique():,} values in {len(values):,} sessions. "
                    f"The model keeps {MOST_CATEGORIES} values, and {format_percent(lost)} of "
                    "these sessions have another one: group the values in dbt's features_at_point."
                )
        return sentences

    @cached_property
    def names(self) -> list[str]:
        """All features, in order."""
        return [feature.name for feature in self.features]

    def place(self, name: str) -> int:
        """The matrix's column of this feature."""
        return self.names.index(name)

    def places(self, kind: str) -> list[int]:
        """The matrix's columns of kind "number" or "category"."""
        return [place for place, feature in enumerate(self.features) if feature.kind == kind]

    def matrix(self, frame: pd.DataFrame) -> np.ndarray:
        """Rows by features as `Feature.values`; UserError if a feature is missing."""
        if missing := [name for name in self.names if name not in frame.columns]:
            raise UserError(
                f"The features lack {', '.join(missing)}, which the model was trained on. Put it "
                "back into dbt's features_at_point, or train again with `make data train`."
            )
        columns = frame
        if len(frame) <= FEW:  # here, a data frame takes longer to select a column than to read it
            columns = dict(zip(frame.columns, frame.to_numpy(dtype=object).T, strict=True))
        numbers = np.array([feature.numbers(columns[feature.name]) for feature in self.features])
        return _finite(numbers.reshape(-1, len(frame)).T)


def _finite(numbers: np.ndarray) -> np.ndarray:
    return np.clip(np.where(np.isfinite(numbers), numbers, np.nan), -LARGEST, LARGEST)
