"""A bundle brought to life: events of sessions in, probabilities out."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jollyboat.bundles.bundle import REASSEMBLE, SHARED, Bundle
from jollyboat.bundles.features import FeatureQuery, refuse_missing, rows_of_request
from jollyboat.store.errors import UserError
from jollyboat.training.estimators import Model
from jollyboat.training.explanation import explain, is_estimate
from jollyboat.training.persistence import load
from jollyboat.training.schema import FeatureSchema

Session = tuple[str, str, Sequence[Mapping[str, Any]]]  # tenant_id, entity_id, events so far
TOLERANCE = 1e-9
MOST_REASONS = 5
_ESTIMATED = " (estimated by occlusion)"


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
        try:
            self._model = load(bundle.model)
        except Exception as error:  # another library's classifier raises what it likes
            raise UserError(
                f"The model in the bundle at {bundle.folder} cannot be loaded ({error!r}): run `make setup` for the "
                "libraries that it was saved with, or `make train deploy`."
            ) from error
        self._columns = FeatureSchema.from_dict(bundle.schema).names
        self._query = FeatureQuery(bundle.feature_sql, bundle.lookups, threads=threads)
        self.check_sample()
        if lookup_files:
            self._query.close()
            tenant = None if bundle.owner == SHARED else bundle.owner
            self._query = FeatureQuery(
                bundle.feature_sql, bundle.lookups, lookup_files, threads, days, tenant
            )

    def predict(
        self, sessions: Sequence[Session], explained: Sequence[bool] = ()
    ) -> list[Prediction]:
        """A prediction for each session, in their order, from one pass over all; with reasons where `explained`."""
        rows = _rows(sessions, self.salt)
        features = self._query.run(rows, self._columns)
        probabilities = predict(self._model, features)
        told = self.reasons(features, explained) if any(explained) else [None] * len(sessions)
        return [
            Prediction(probability, len(row), row[-1]["point_at"], digest, reasons)
            for probability, row, digest, reasons in zip(
                probabilities, rows, _hashes(features), told, strict=True
            )
        ]

    def features(self, sessions: Sequence[Session]) -> pd.DataFrame:
        """The features of each session, in their order."""
        return self._query.run(_rows(sessions, self.salt)).infer_objects()

    def score(self, features: pd.DataFrame) -> list[float]:
        """The probability of the outcome for rows of a snapshot's features."""
        if not len(features):
            return []
        refuse_missing(self._columns, features.columns)
        return predict(self._model, features[self._columns])

    def reasons(
        self, features: pd.DataFrame, explained: Sequence[bool]
    ) -> list[list[dict[str, Any]] | None]:
        """What moved the answer most, for the rows asked for."""
        asked = features.loc[list(explained), self._columns]
        moved, method = explain(self._model, asked), _ESTIMATED if is_estimate(self._model) else ""
        told = {
            place: _in_words(asked.loc[place], moved.loc[place], method) for place in asked.index
        }
        return [told.get(place) for place in features.index]

    def check_sample(self) -> None:
        """Refuse a bundle whose sample request is no longer answered as when it was made (lookups being empty)."""
        request, expected = self.bundle.sample["request"], self.bundle.sample["answer"]
        found = self.predict([(request["tenant_id"], "sample", request["events"])])[0].probability
        if not math.isclose(found, expected["probability"], rel_tol=0, abs_tol=TOLERANCE):
            raise UserError(
                f"The bundle at {self.bundle.folder} answers its own sample with {found:.12g}, and it was "
                f"{expected['probability']:.12g} when it was made; {REASSEMBLE}."
            )

    def close(self) -> None:
        """Give the memory back."""
        self._query.close()


def answer_sample(
    model: Path,
    feature_sql: str,
    schema: Mapping[str, Any],
    lookups: Mapping[str, Mapping[str, str]],
    threshold: float,
    request: Mapping[str, Any],
) -> dict[str, Any]:
    """A bundle's sample.json: the request, and the answer that these parts of it give to it over empty lookups."""
    with closing(FeatureQuery(feature_sql, lookups)) as query:
        rows = _rows([(request["tenant_id"], "sample", request["events"])])
        features = query.run(rows, FeatureSchema.from_dict(schema).names)
    probability = predict(load(model), features)[0]
    return {"request": dict(request), "answer": answer(probability, threshold)}


def predict(model: Model, features: pd.DataFrame) -> list[float]:
    """The model's probabilities over the features that it reads."""
    probabilities = model.predict_proba(features).tolist()
    if len(probabilities) != len(features) or not all(0 <= value <= 1 for value in probabilities):
        raise ValueError(
            "the candidate's predict_proba must give one number from 0 to 1 for each row"
        )
    return probabilities


def answer(probability: float, threshold: float) -> dict[str, Any]:
    """What is said of a probability, whoever asks."""
    return {
        "probability": probability,
        "decision": probability >= threshold,
        "threshold": threshold,
    }


def _rows(sessions: Sequence[Session], salt: str = "") -> list[list[dict]]:
    return [
        rows_of_request(place, tenant_id, events, salt)
        for place, (tenant_id, _, events) in enumerate(sessions)
    ]


def _hashes(features: pd.DataFrame) -> list[str]:
    """Equal for equal features, so that the log tells sessions that looked alike from a model that changed its mind."""
    rows = features.to_numpy().tolist()
    return [hashlib.md5(repr(row).encode(), usedforsecurity=False).hexdigest() for row in rows]


def _in_words(values: pd.Series, moved: pd.Series, method: str) -> list[dict[str, Any]]:
    """What moved the log-odds of one row most, the strongest first."""
    told = []
    for name in moved.abs().sort_values(ascending=False, kind="stable").index[:MOST_REASONS]:
        if not (effect := round(float(moved[name]), 6)):
            break
        value = None if pd.isna(values[name]) else values[name]
        value = value.item() if hasattr(value, "item") else value
        said = (
            "unknown"
            if value is None
            else f"{value:.4g}"
            if isinstance(value, float)
            else f"{value!s:.40}"
        )
        text = f"{name.replace('_', ' ')} is {said}, which makes the odds {math.exp(effect):.2g} times as high{method}"
        told.append({"feature": name, "value": value, "effect": effect, "text": text})
    return told
