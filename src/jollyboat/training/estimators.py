"""Candidates: functions in ml/candidates.py, and the models that they fit."""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.store import PROJECT, UserError
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

BASELINE = "baseline"  # the candidate that the others have to beat
TYPICAL_VALUES, SAMPLED_ROWS = 20, 2_000


@dataclass(frozen=True)
class Model:
    """A fitted classifier over the schema's matrix.

    Each column of `typical` has a feature's values in training at even steps from the lowest to the
    highest, unknown ones last. A row of it is no session. Explanation by occlusion needs it.
    """

    schema: FeatureSchema
    classifier: Any
    typical: np.ndarray | None = None

    def predict_proba(self, features: pd.DataFrame) -> np.ndarray:
        """The probability of the outcome for each row of features."""
        return self.predict_matrix(self.schema.matrix(features)) if len(features) else np.empty(0)

    def predict_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """The probability of the outcome for each row of the schema's matrix."""
        return np.asarray(self.classifier.predict_proba(matrix))[:, 1].astype(float)

    @property
    def last_step(self) -> Any:
        """The classifier itself; of a Pipeline its last step."""
        return self.classifier[-1] if self._is_pipeline else self.classifier

    def transform(self, matrix: np.ndarray) -> np.ndarray:
        """The columns that the last step reads."""
        if not self._is_pipeline:
            return matrix
        columns = self.classifier[:-1].transform(matrix)
        return columns.toarray() if hasattr(columns, "toarray") else np.asarray(columns)

    @cached_property
    def origins(self) -> list[int] | None:
        """The feature that each of these columns is made from; None where one has several."""
        places = range(len(self.schema.names))
        if not self._is_pipeline:
            return list(places)
        try:
            columns = self.classifier[:-1].get_feature_names_out([f"<{each}>" for each in places])
        except (AttributeError, ValueError):  # a step that does not name its columns
            return None
        sources = [re.findall(r"<(\d+)>", column) for column in columns]
        is_unique = all(len(each) == 1 for each in sources)
        return [int(each[0]) for each in sources] if is_unique else None

    @property
    def _is_pipeline(self) -> bool:
        return kind(self.classifier) == "sklearn.Pipeline"


def kind(classifier: Any) -> str:
    """Library and class without an import, such as xgboost.XGBClassifier."""
    return f"{type(classifier).__module__.partition('.')[0]}.{type(classifier).__name__}"


def fit(
    name: str, train: Part, validation: Part, schema: FeatureSchema, settings: Mapping
) -> Model:
    """The candidate of this name, fitted on train beside validation. Raises `UserError`."""
    rows, tuning = schema.matrix(train.features), schema.matrix(validation.features)
    return _call(name, (rows, train.label, tuning, validation.label), schema, settings)


def refit(name: str, first: Model, train: Part, validation: Part, settings: Mapping) -> Model:
    """The candidate fitted again on both parts together; `first` is what `fit` returned."""
    schema = first.schema
    rows = np.concatenate([schema.matrix(part.features) for part in (train, validation)])
    label = np.concatenate([train.label, validation.label])
    own = {**settings, "first_fit": first.classifier}
    return _call(name, (rows, label, None, None), schema, own)


def search_ranges(name: str) -> dict[str, tuple[float, float]]:
    """Each setting's lowest and highest value: SEARCH in ml/candidates.py."""
    return getattr(read_candidates(), "SEARCH", {}).get(name, {})


def find_candidate(name: str) -> Callable:
    """The function of this name in ml/candidates.py. Raises `UserError` naming the others."""
    module = read_candidates()
    functions = {
        key: function
        for key, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not key.startswith("_")
    }
    if name not in functions:
        raise UserError(
            f"There is no candidate {name!r}. Write a function of that name in ml/candidates.py, "
            f"or set [train] candidates in project.toml to some of {', '.join(sorted(functions))}."
        )
    return functions[name]


@cache
def read_candidates() -> ModuleType:
    """The project's ml/candidates.py as a module. Raises `UserError` where there is none."""
    path = PROJECT / "ml" / "candidates.py"
    if not path.is_file():
        raise UserError(f"{path} is missing. Write functions there that fit a classifier.")
    spec = importlib.util.spec_from_file_location("candidates", path)
    module = sys.modules["candidates"] = importlib.util.module_from_spec(spec)
    with _with_advice("ml/candidates.py"):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _with_advice(what: str) -> Iterator[None]:
    """What the project's own code raises, as a UserError with its traceback and what to type."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        raise UserError(
            f"{trace}{what} raised {error!r}. Fix it, then run `make train` again."
        ) from error


def _call(name: str, rows: tuple, schema: FeatureSchema, settings: Mapping) -> Model:
    with _with_advice(f"The candidate {name} of ml/candidates.py"):
        classifier = find_candidate(name)(*rows, schema, settings)
    if not hasattr(classifier, "predict_proba"):
        raise UserError(
            f"The candidate {name!r} returned {classifier!r:.100}, which has no predict_proba. "
            "Return a fitted classifier from its function in ml/candidates.py."
        )
    return Model(schema, classifier, _typical_values(rows[0]))


def _typical_values(matrix: np.ndarray) -> np.ndarray:
    sample = np.sort(matrix[:: max(1, len(matrix) // SAMPLED_ROWS)], axis=0)  # NaN comes last
    return sample[np.linspace(0, len(sample) - 1, TYPICAL_VALUES).round().astype(int)]
