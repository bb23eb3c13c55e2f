"""A loaded bundle: events of sessions in, probabilities out."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from jollyboat.bundles.bundle import REASSEMBLE, SHARED, Bundle
from jollyboat.bundles.features import (
    FeatureQuery,
    Rows,
    naive_utc,
    refuse_missing,
    rows_of_request,
)
from jollyboat.bundles.queries import FeatureQueries
from jollyboat.store import UserError
from jollyboat.training.estimators import Model
from jollyboat.training.explanation import explain, is_estimate
from jollyboat.training.persistence import load
from jollyboat.training.schema import FeatureSchema

# tenant_id, entity_id, events so far; for a question that is asked as of a time, that time
Session = (
    tuple[str, str, Sequence[Mapping[str, Any]]]
    | tuple[str, str, Sequence[Mapping[str, Any]], datetime | None]
)
TOLERANCE = 1e-9
PREDICTED, TOO_EARLY, HAD_OUTCOME = "predicted", "too_early", "had_outcome"
NO_EVENTS = "no_events"  # in the history of a question's point
MOST_REASONS = 5
_ESTIMATED = " (estimated by occlusion)"


@dataclass(frozen=True)
class Prediction:
    """The probability of the outcome for one session at its point, and what it was made from.

    The status is TOO_EARLY before the first prediction point that the model has learned from,
    HAD_OUTCOME after the outcome, and NO_EVENTS where no event is in the history of the point:
    then the probability means nothing.
    """

    probability: float
    event_count: int
    point_at: str
    features_hash: str
    reasons: list[dict[str, Any]] | None = None
    status: str = PREDICTED


class LoadedModel:
    """A loaded bundle; UserError if it cannot be loaded or no longer answers its own sample.

    Without `lookup_files` the lookups are empty. `salt` is what personal values are hashed with;
    without it the values of `personal_fields` stay, for a snapshot's events have their hashes.
    `days` and `until` limit the lookups as in FeatureQuery. With `queries` the model shares its
    query, and so the lookups of all tenants, with the other models that are given them.
    """

    def __init__(
        self,
        bundle: Bundle,
        lookup_files: Mapping[str, Sequence[Path]] | None = None,
        threads: int = 1,
        days: int | None = None,
        salt: str | None = None,
        until: datetime | None = None,
        queries: FeatureQueries | None = None,
    ):
        self.salt = salt or ""
        self.personal_fields = () if salt is None else bundle.personal_fields
        self.bundle = bundle
        self.standing: Mapping[str, Any] = {}  # the history's entry, if it is a champion
        try:
            self._model = self._load(bundle.model)
        except Exception as error:  # another library's classifier raises anything
            raise UserError(
                f"The model in the bundle at {bundle.folder} cannot be loaded ({error!r}): run "
                "`make setup` for the libraries that it was saved with, or `make train deploy`."
            ) from error
        self.columns = FeatureSchema.from_dict(bundle.schema).names
        query = {
            "threads": threads,
            "outcome": bundle.outcome,
            "events": events_of(bundle.question),
        }
        self._is_shared = queries is not None
        if queries:
            self.query = queries.of(bundle, **query)
            self.check_sample()
            limits = {"days": days, "until": until}
            self.query = queries.of(bundle, lookup_files or {}, **limits, **query)
            return
        rows = bundle.sample.get("lookups")
        self.query = FeatureQuery(bundle.feature_sql, bundle.lookups, rows=rows, **query)
        self.check_sample()
        if lookup_files or rows:
            self.query.close()
            tenant = None if bundle.owner == SHARED else bundle.owner
            limits = {"days": days, "tenant": tenant, "until": until}
            limits["reaches_back"] = self._reaches_back and days is not None
            self.query = FeatureQuery(
                bundle.feature_sql, bundle.lookups, lookup_files, **limits, **query
            )

    _load = staticmethod(load)
    _reaches_back = False
    nothing = Prediction(0.0, 0, "", "", None, NO_EVENTS)

    def predict(
        self, sessions: Sequence[Session], explained: Sequence[bool] = ()
    ) -> list[Prediction]:
        """A prediction for each session, in their order, with reasons if `explained`."""
        explained = explained or [False] * len(sessions)
        return predict_together([(self, *each) for each in zip(sessions, explained, strict=True)])

    def predict_rows(
        self, requests: Sequence[tuple["LoadedModel", Session, bool]], rows: list[Rows]
    ) -> list[Prediction]:
        """A prediction for each request from its rows; its model shares this one's query."""
        names = {tuple(model.columns) for model, *_ in requests}
        features = self.query.run(rows, names.pop() if len(names) == 1 else ())
        had_outcome, predictions = self.query.had_outcome(rows), [self.nothing] * len(rows)
        places_by_model: dict[LoadedModel, list[int]] = {}
        for place, (model, *_) in enumerate(requests):
            places_by_model.setdefault(model, []).append(place)
        for model, places in places_by_model.items():
            own = features if len(places) == len(rows) else features.iloc[places]
            explained = [requests[place][2] for place in places]
            made = model.predict_features(own[model.columns] if names else own, explained)
            for place, (probability, digest, reasons) in zip(places, made, strict=True):
                events = rows[place]
                status = model.status_of(events, had_outcome[place])
                about = len(events), events[-1]["point_at"], digest, reasons, status
                predictions[place] = Prediction(probability, *about)
        return predictions

    def predict_features(
        self, features: pd.DataFrame, explained: Sequence[bool]
    ) -> list[tuple[float, str, list | None]]:
        """The probability, the hash of its features and the reasons for each row of features."""
        probabilities = predict(self._model, features)
        reasons = self.reasons(features, explained) if any(explained) else [None] * len(features)
        return list(zip(probabilities, _hashes(features), reasons, strict=True))

    def _rows(self, sessions: Sequence[Session]) -> list[Rows]:
        return [
            self.rows_of(place, tenant_id, events, *point_at)
            for place, (tenant_id, _, events, *point_at) in enumerate(sessions)
        ]

    def rows_of(
        self,
        place: int,
        tenant_id: str,
        events: Sequence[Mapping],
        point_at: datetime | None = None,
    ) -> Rows:
        """The rows of a request's events that the features are made from.

        A question that is asked as of now takes the present time where no `point_at` is given.
        """
        question = self.bundle.question
        if point_at is None and question.get("asked_at") == "now":
            point_at = datetime.now(UTC).replace(tzinfo=None)
        history_days = question.get("history_days")
        hashing = self.salt, self.personal_fields
        return rows_of_request(place, tenant_id, events, *hashing, point_at, history_days)

    def status_of(self, events: Rows, had_outcome: bool) -> str:
        """The status of the prediction from these events."""
        if had_outcome:
            return HAD_OUTCOME
        return TOO_EARLY if len(events) < self.bundle.first_point else PREDICTED

    def features(self, sessions: Sequence[Session]) -> pd.DataFrame:
        """The features of each session, in their order."""
        return self.query.run(self._rows(sessions)).infer_objects()

    def score(self, features: pd.DataFrame) -> list[float]:
        """The probability of the outcome for rows of a snapshot's features."""
        if not len(features):
            return []
        refuse_missing(self.columns, features.columns)
        return predict(self._model, features[self.columns])

    def reasons(
        self, features: pd.DataFrame, explained: Sequence[bool]
    ) -> list[list[dict[str, Any]] | None]:
        """The features that moved each probability most; None for rows not `explained`."""
        reasons = reasons_of(self._model, features.loc[list(explained), self.columns])
        return [reasons.get(place) for place in features.index]

    def check_sample(self) -> None:
        """UserError if the bundle no longer answers its sample as when it was made."""
        request, expected = self.bundle.sample["request"], self.bundle.sample["answer"]
        at = [point_of(request)] if self.bundle.question else []
        session = (request["tenant_id"], "sample", request["events"], *at)
        probability = self.predict([session])[0].probability
        if not math.isclose(probability, expected["probability"], rel_tol=0, abs_tol=TOLERANCE):
            raise UserError(
                f"The bundle at {self.bundle.folder} answers its own sample with "
                f"{probability:.12g}, but it was {expected['probability']:.12g} when the bundle "
                f"was made: {REASSEMBLE}."
            )

    def close(self) -> None:
        """Give the memory back; a query that other models share stays open."""
        if not self._is_shared:
            self.query.close()


def predict_together(
    requests: Sequence[tuple["LoadedModel", Session, bool]],
) -> list[Prediction]:
    """A prediction for each (model, session, whether to explain it), in their order.

    All models share one query, or are one model.
    """
    rows = [
        model.rows_of(place, tenant_id, events, *point_at)
        for place, (model, (tenant_id, _, events, *point_at), _) in enumerate(requests)
    ]
    predictions = [model.nothing for model, *_ in requests]
    kept = [place for place, events in enumerate(rows) if events]
    if not kept:
        return predictions
    if len(kept) < len(rows):
        rows = [rows_of_request(n, None, rows[place]) for n, place in enumerate(kept)]
    made = requests[kept[0]][0].predict_rows([requests[place] for place in kept], rows)
    for place, prediction in zip(kept, made, strict=True):
        predictions[place] = prediction
    return predictions


def answer_samples(
    models: Mapping[str, Model],
    feature_sql: str,
    lookups: Mapping[str, Mapping[str, str]],
    threshold: float,
    requests: Mapping[str, Mapping[str, Any]],
    question: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any] | Exception]:
    """Each tenant's sample.json: its request in its name and its model's answer to it.

    The lookups are empty. A model that cannot answer has its exception instead.
    """
    requests = {tenant: {**requests[tenant], "tenant_id": tenant} for tenant in models}
    with closing(FeatureQuery(feature_sql, lookups, events=events_of(question))) as query:
        rows = [
            rows_of_request(place, tenant, each["events"], point_at=point_of(each))
            for place, (tenant, each) in enumerate(requests.items())
        ]
        features = query.run(rows)
    samples: dict[str, dict[str, Any] | Exception] = {}
    for place, (tenant, model) in enumerate(models.items()):
        try:
            made = answer(predict(model, features.iloc[[place]])[0], threshold)
            samples[tenant] = {"request": requests[tenant], "answer": made}
        except Exception as error:  # a candidate of the team may raise anything
            samples[tenant] = error
    return samples


def answer_sample(
    model: Path,
    feature_sql: str,
    lookups: Mapping[str, Mapping[str, str]],
    threshold: float,
    request: Mapping[str, Any],
    question: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A bundle's sample.json: the request and its answer from these parts, with empty lookups."""
    tenant = request["tenant_id"]
    samples = answer_samples(
        {tenant: load(model)}, feature_sql, lookups, threshold, {tenant: request}, question
    )
    (sample,) = samples.values()
    if isinstance(sample, Exception):
        raise sample
    return sample


def events_of(question: Mapping[str, Any] | None) -> str:
    """The view of events that the features of this question read; the first has no definition."""
    return f"{question['name']}_events_at_point" if question else "events_at_point"


def point_of(request: Mapping[str, Any]) -> datetime | None:
    """The time as of which a request asks, if it has one."""
    return naive_utc(request["point_at"]) if request.get("point_at") else None


def predict(model: Model, features: pd.DataFrame) -> list[float]:
    """The model's probabilities over the features that it reads."""
    probabilities = model.predict_proba(features).tolist()
    if len(probabilities) != len(features) or not all(0 <= value <= 1 for value in probabilities):
        raise ValueError(
            "the candidate's predict_proba must give one number from 0 to 1 for each row"
        )
    return probabilities


def answer(probability: float | None, threshold: float) -> dict[str, Any]:
    """The probability with the decision at this threshold; None where there is none."""
    return {
        "probability": probability,
        "decision": None if probability is None else probability >= threshold,
        "threshold": threshold,
    }


def _hashes(features: pd.DataFrame) -> list[str]:
    """A hash of each row: sessions with the same features have the same one in the log."""
    rows = features.to_numpy().tolist()
    return [hashlib.md5(repr(row).encode(), usedforsecurity=False).hexdigest() for row in rows]


def reasons_of(model: Model, rows: pd.DataFrame) -> dict[Any, list[dict[str, Any]]]:
    """The features that moved each row's probability most, by the row's index."""
    effects = explain(model, rows)
    method = _ESTIMATED if is_estimate(model) else ""
    return {
        place: _strongest_reasons(rows.loc[place], effects.loc[place], method)
        for place in rows.index
    }


def _strongest_reasons(values: pd.Series, effects: pd.Series, method: str) -> list[dict[str, Any]]:
    """The largest effects on the log-odds of one row, the strongest first."""
    reasons = []
    for name in effects.abs().sort_values(ascending=False, kind="stable").index[:MOST_REASONS]:
        effect = round(float(effects[name]), 6)
        if not effect:
            break
        value = None if pd.isna(values[name]) else values[name]
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float) and not math.isfinite(value):
            value = None  # as the model reads it; JSON has no infinite number
        text = (
            f"{name.replace('_', ' ')} is {_format_value(value)}, which makes the odds "
            f"{math.exp(effect):.2g} times as high{method}"
        )
        reasons.append({"feature": name, "value": value, "effect": effect, "text": text})
    return reasons


def _format_value(value: object) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else f"{value!s:.40}"
