"""A bundle brought to life: events of sessions in, probabilities out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from ml.candidates import load_module
from ml.schema import FeatureSchema
from rails.bundle import Bundle
from rails.errors import Refused
from serving.features import FeatureQuery

Session = tuple[str, str, Sequence[Mapping[str, Any]]]  # tenant_id, entity_id, events so far
TOLERANCE = 1e-9


class LoadedModel:
    """A bundle that answers its own sample as when it was made; its lookups are empty where no files are given."""

    def __init__(self, bundle: Bundle, lookup_files: Mapping[str, Sequence[Path]] | None = None, threads: int = 1):
        self.bundle = bundle
        self.standing: Mapping[str, Any] = {}  # how it became champion, where it is one
        self._module: ModuleType = load_module(bundle.candidate)
        self._model = self._module.load(bundle.model)
        self._columns = FeatureSchema.from_dict(bundle.schema).names
        self._query = FeatureQuery(bundle.feature_sql, bundle.lookups, threads=threads)
        self.check_sample()
        if lookup_files:
            self._query.close()
            self._query = FeatureQuery(bundle.feature_sql, bundle.lookups, lookup_files, threads)

    def predict(self, sessions: Sequence[Session]) -> list[float]:
        """The probability of the outcome for each session, in their order, from one pass over all of them."""
        return predict(self._module, self._model, self._query, self._columns, sessions)

    def features(self, sessions: Sequence[Session]) -> pd.DataFrame:
        """The features of each session, in their order."""
        return self._query.compute(_with_tenant(sessions))

    def answer(self, probability: float) -> dict[str, Any]:
        """What a client is told of a probability."""
        return answer(probability, self.bundle.threshold)

    def check_sample(self) -> None:
        """Refuse a bundle whose sample request is no longer answered as when it was made (lookups being empty)."""
        request, expected = self.bundle.sample["request"], self.bundle.sample["answer"]
        found = self.predict([(request["tenant_id"], "sample", request["events"])])[0]
        if not math.isclose(found, expected["probability"], rel_tol=0, abs_tol=TOLERANCE):
            raise Refused(
                f"The bundle at {self.bundle.folder} answers its own sample with {found:.12g}, and it was "
                f"{expected['probability']:.12g} when it was made; run `make deploy` to assemble it again."
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
    query = FeatureQuery(feature_sql, lookups)
    try:
        sessions = [(request["tenant_id"], "sample", request["events"])]
        names = FeatureSchema.from_dict(schema).names
        probability = predict(module, module.load(model), query, names, sessions)[0]
    finally:
        query.close()
    return {"request": dict(request), "answer": answer(probability, threshold)}


def predict(
    module: ModuleType, model: Any, query: FeatureQuery, columns: list[str], sessions: Sequence[Session]
) -> list[float]:
    """Probabilities by a candidate's module over the features that the query computes."""
    features = query.compute(_with_tenant(sessions))
    missing = [name for name in columns if name not in features.columns]
    if missing:
        raise Refused(f"features.sql of the bundle gives no {missing[0]}, which the model reads; run `make deploy`.")
    probabilities = [float(value) for value in module.predict_proba(model, features[columns])]
    if len(probabilities) != len(sessions) or not all(0 <= value <= 1 for value in probabilities):
        raise ValueError("the candidate's predict_proba must give one number from 0 to 1 for each row")
    return probabilities


def answer(probability: float, threshold: float) -> dict[str, Any]:
    """What is said of a probability, whoever asks."""
    return {"probability": probability, "decision": probability >= threshold, "threshold": threshold}


def _with_tenant(sessions: Sequence[Session]) -> list[list[Mapping[str, Any]]]:
    return [[{**event, "tenant_id": tenant_id} for event in events] for tenant_id, _, events in sessions]
