"""A bundle brought to life: events of sessions in, probabilities out."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import MEND, Bundle
from jollyboat.bundles.features import FeatureQuery, refuse_missing, rows_of_request
from jollyboat.champions.champion import POOLED
from jollyboat.store.errors import Refused
from jollyboat.training.candidates import load_module
from jollyboat.training.schema import FeatureSchema

Session = tuple[str, str, Sequence[Mapping[str, Any]]]  # tenant_id, entity_id, events so far
TOLERANCE = 1e-9
MOST_REASONS = 5


@dataclass(frozen=True)
class Prediction:
    """The probability of the outcome for one session, and what it was made from: k events up to the point."""

    probability: float
    event_count: int
    point_at: str
    features_hash: str
    reasons: list[dict[str, Any]] | None = None


class LoadedModel:
    """A bundle that answers its own sample as when it was made; its lookups are empty where no files are given."""

    def __init__(
        self,
        bundle: Bundle,
        lookup_files: Mapping[str, Sequence[Path]] | None = None,
        threads: int = 1,
        days: int | None = None,
        salt: str = "",
    ):
        self.salt = salt  # what addresses in ids are hashed with
        self.bundle = bundle
        self.standing: Mapping[str, Any] = {}  # how it became champion, where it is one
        self._module: ModuleType = load_module(bundle.candidate)
        try:
            self._model = self._module.load(bundle.model)
        except Exception as error:  # a candidate whose code has changed raises what it likes over what it saved before
            sentence = f"ml/candidates/{bundle.candidate}.py cannot load what it saved in {bundle.folder} ({error!r})"
            raise Refused(f"{sentence}: undo the change of its code, or `make train deploy`.") from error
        self._columns = FeatureSchema.from_dict(bundle.schema).names
        self._query = FeatureQuery(bundle.feature_sql, bundle.lookups, threads=threads)
        self.check_sample()
        if lookup_files:
            self._query.close()
            tenant = None if bundle.owner == POOLED else bundle.owner
            self._query = FeatureQuery(bundle.feature_sql, bundle.lookups, lookup_files, threads, days, tenant)

    def predict(self, sessions: Sequence[Session], explained: Sequence[bool] = ()) -> list[Prediction]:
        """A prediction for each session, in their order, from one pass over all; with reasons where `explained`."""
        rows = _rows(sessions, self.salt)
        features = self._query.run(rows, self._columns)
        probabilities = predict(self._module, self._model, features)
        told = self.reasons(features, explained) if any(explained) else [None] * len(sessions)
        return [
            Prediction(probability, len(row), row[-1]["point_at"], digest, reasons)
            for probability, row, digest, reasons in zip(probabilities, rows, _hashes(features), told, strict=True)
        ]

    def features(self, sessions: Sequence[Session]) -> pd.DataFrame:
        """The features of each session, in their order."""
        return self._query.run(_rows(sessions, self.salt)).infer_objects()

    def score(self, features: pd.DataFrame) -> list[float]:
        """The probability of the outcome for rows of a snapshot's features."""
        if not len(features):
            return []
        refuse_missing(self._columns, features.columns)
        return predict(self._module, self._model, features[self._columns])

    def reasons(self, features: pd.DataFrame, explained: Sequence[bool]) -> list[list[dict[str, Any]] | None]:
        """What moved the answer most, for the rows asked for."""
        asked = features.loc[list(explained), self._columns]
        moved = self._module.explain(self._model, asked)
        return [
            _in_words(asked.loc[place], moved.loc[place]) if place in asked.index else None for place in features.index
        ]

    def check_sample(self) -> None:
        """Refuse a bundle whose sample request is no longer answered as when it was made (lookups being empty)."""
        request, expected = self.bundle.sample["request"], self.bundle.sample["answer"]
        found = self.predict([(request["tenant_id"], "sample", request["events"])])[0].probability
        if not math.isclose(found, expected["probability"], rel_tol=0, abs_tol=TOLERANCE):
            raise Refused(
                f"The bundle at {self.bundle.folder} answers its own sample with {found:.12g}, and it was "
                f"{expected['probability']:.12g} when it was made; {MEND}."
            )

    def close(self) -> None:
        """Give the memory back."""
        self._query.close()


def answer_sample(
    candidate: str,
    model: Path,
    feature_sql: str,
    schema: Mapping[str, Any],
    lookups: Mapping[str, Mapping[str, str]],
    threshold: float,
    request: Mapping[str, Any],
) -> dict[str, Any]:
    """A bundle's sample.json: the request, and the answer that these parts of it give to it over empty lookups."""
    module = load_module(candidate)
    with closing(FeatureQuery(feature_sql, lookups)) as query:
        rows = _rows([(request["tenant_id"], "sample", request["events"])])
        features = query.run(rows, FeatureSchema.from_dict(schema).names)
    probability = predict(module, module.load(model), features)[0]
    return {"request": dict(request), "answer": answer(probability, threshold)}


def predict(module: ModuleType, model: Any, features: pd.DataFrame) -> list[float]:
    """Probabilities by a candidate's module over the features that it reads."""
    probabilities = np.asarray(module.predict_proba(model, features), dtype=float).tolist()
    if len(probabilities) != len(features) or not all(0 <= value <= 1 for value in probabilities):
        raise ValueError("the candidate's predict_proba must give one number from 0 to 1 for each row")
    return probabilities


def answer(probability: float, threshold: float) -> dict[str, Any]:
    """What is said of a probability, whoever asks."""
    return {"probability": probability, "decision": probability >= threshold, "threshold": threshold}


def _rows(sessions: Sequence[Session], salt: str = "") -> list[list[dict]]:
    return [rows_of_request(place, tenant_id, events, salt) for place, (tenant_id, _, events) in enumerate(sessions)]


def _hashes(features: pd.DataFrame) -> list[str]:
    """Equal for equal features, so that the log tells sessions that looked alike from a model that changed its mind."""
    rows = features.to_numpy().tolist()
    return [hashlib.md5(repr(row).encode(), usedforsecurity=False).hexdigest() for row in rows]


def _in_words(values: pd.Series, moved: pd.Series) -> list[dict[str, Any]]:
    """What moved the log-odds of one row most, the strongest first."""
    told = []
    for name in moved.abs().sort_values(ascending=False, kind="stable").index[:MOST_REASONS]:
        if not (effect := float(moved[name])):
            break
        value = None if pd.isna(values[name]) else values[name]
        value = value.item() if hasattr(value, "item") else value
        said = "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value!s:.40}"
        text = f"{name.replace('_', ' ')} is {said}, which makes the odds {math.exp(effect):.2g} times as high"
        told.append({"feature": name, "value": value, "effect": round(effect, 6), "text": text})
    return told
