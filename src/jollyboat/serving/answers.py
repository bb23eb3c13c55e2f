"""Answers to prediction requests: each is in the prediction log before the client has it."""

import logging
import re
import time
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import duckdb
from fastapi import HTTPException

from jollyboat.bundles.bundle import SAMPLE_TENANT
from jollyboat.bundles.features import EVENT_COLUMNS
from jollyboat.bundles.model import PREDICTED, LoadedModel, Prediction, answer
from jollyboat.bundles.ranking_model import NO_ITEMS, RECOMMENDED, Recommendation
from jollyboat.landing.prediction_log import PredictionLog
from jollyboat.serving import metrics
from jollyboat.serving.champions import Champions
from jollyboat.serving.request_queue import RequestQueue
from jollyboat.serving.schema import PredictRequest, QuestionRequest
from jollyboat.store import hash_addresses, suggest

MOST_WARNINGS = 5  # about types of events
# What a client's events have: the request names tenant and session, the logs the rest.
SENT_COLUMNS = EVENT_COLUMNS.keys() - {
    *("tenant_id", "session_id", "source", "received_at", "event_id", "payload")
}
FAILED = "failed"  # the status of an answer that only the log has
log = logging.getLogger("serving")


@dataclass(frozen=True)
class ServedQuestion:
    """A question's champions and its queue of requests; the first question's name is empty."""

    name: str
    champions: Champions
    queue: RequestQueue


async def answer_requests(
    served: ServedQuestion,
    prediction_log: PredictionLog | None,
    requests: list[PredictRequest],
    explain: bool,
    began: float,
) -> list[dict[str, Any]]:
    """An answer for each request, or an HTTPException for all of them where one fails."""
    for tenant_id in {request.tenant_id for request in requests}:
        if served.champions.needs(tenant_id):
            await served.champions.load(tenant_id)
    ids = [uuid4().hex for _ in requests]
    entities = [
        entity_of(request, served) or own for request, own in zip(requests, ids, strict=True)
    ]
    futures = [
        served.queue.predict(
            (request.tenant_id, entity, request.rows, *_point_of(request, served)),
            visitor_of(request, entity, served),
            explain or request.explain,
            place,
        )
        for place, (request, entity) in enumerate(zip(requests, entities, strict=True))
    ]
    results = [await future for future in futures]
    if None in results:
        tenant_id = requests[results.index(None)].tenant_id
        raise HTTPException(503, served.champions.why_not(tenant_id))
    # The time of a batch is not the latency of an answer.
    latency_ms = (time.perf_counter() - began) * 1_000 if len(requests) == 1 else None
    failures = [number for number, result in enumerate(results) if isinstance(result[2], Exception)]
    answers = []
    # Where a batch fails, the log has its first failure, which the experiment's readout counts.
    for number in failures[:1] or range(len(requests)):
        model, variant, prediction = results[number]
        request, request_id = requests[number], ids[number]
        made = None if failures else prediction
        about = (model, variant, request, request_id, entities[number])
        if model.bundle.is_ranking:
            answered = format_recommendation(*about, made, served.champions.withdrawn)
        else:
            answered = format_answer(*about, made)
        if prediction_log:
            line = _log_line(answered, request, made, model.salt) | _names(served)
            prediction_log.append(line | {"latency_ms": latency_ms and round(latency_ms, 3)})
        if failures:
            raise _refusal(prediction, request_id, number)
        if warnings := warnings_of(request, model):
            answered["warnings"] = warnings
        metrics.record_answer(answered, served.name)
        has_reasons = prediction.reasons is not None and prediction.status == PREDICTED
        answers.append(answered | ({"reasons": prediction.reasons} if has_reasons else {}))
    return answers


def warnings_of(request: PredictRequest, model: LoadedModel) -> list[str]:
    """What in the request the training data lack: types of events, columns, and the tenant."""
    if request.tenant_id == SAMPLE_TENANT:
        return []
    trained = model.bundle.vocabulary
    types, tenants = (trained.get(name) for name in ("event_types", "tenants"))
    unknown = {event["event_type"] for event in request.events} - types if types else ()
    warnings = [
        f"No event of the training data has the event_type {name!r}.{suggest(name, types)}"
        for name in (name[:80] for name in sorted(unknown)[:MOST_WARNINGS])
    ]
    usual = SENT_COLUMNS.intersection(trained.get("columns", ()))
    if empty := sorted(usual.difference(*request.events)):
        names = ", ".join(empty)
        warnings.append(f"No event has {names}, which nearly all events of the training data have.")
    if tenants and request.tenant_id not in tenants:
        name = request.tenant_id
        warnings.append(f"The training data have no tenant {name!r}.{suggest(name, tenants)}")
    return warnings


def entity_of(request: PredictRequest, served: ServedQuestion) -> str | None:
    """Whom a request is about; None where it does not say."""
    if not served.name:
        return request.entity()
    model = served.champions.of(request.tenant_id)
    return request.entity_of(model.bundle.question["entity"]) if model else None


def _point_of(request: PredictRequest, served: ServedQuestion) -> tuple[datetime | None, ...]:
    return (request.point_at,) if served.name else ()


def visitor_of(request: PredictRequest, entity: str | None, served: ServedQuestion) -> str | None:
    """Whose variant of an experiment is drawn: the visitor's, or the entity's of a question."""
    return entity if served.name else request.anonymous_id()


def _names(served: ServedQuestion) -> dict[str, str]:
    return {"question": served.name} if served.name else {}


def format_answer(
    model: LoadedModel,
    variant: str,
    request: PredictRequest,
    request_id: str,
    entity_id: str,
    prediction: Prediction | None,
) -> dict[str, Any]:
    """The answer to a request; without a prediction it has failed.

    There is no probability and no decision for a session that is not at a prediction point.
    """
    status = prediction.status if prediction else FAILED
    probability = prediction.probability if prediction and status == PREDICTED else None
    return {
        "request_id": request_id,
        "tenant_id": request.tenant_id,
        "entity_id": entity_id,
        "status": status,
        **answer(probability, model.bundle.threshold),
        "champion": model.bundle.owner,
        "model_version": model.bundle.version,
        "variant": variant,
    }


def format_recommendation(
    model: LoadedModel,
    variant: str,
    request: QuestionRequest,
    request_id: str,
    entity_id: str,
    made: Recommendation | None,
    withdrawn: Collection[str],
) -> dict[str, Any]:
    """The answer to a request of a ranking question; without a recommendation it has failed."""
    items = [each for each in made.items if each["item"] not in withdrawn] if made else []
    status = made.status if made else FAILED
    return {
        "request_id": request_id,
        "tenant_id": request.tenant_id,
        "entity_id": entity_id,
        "status": NO_ITEMS if status == RECOMMENDED and not items else status,
        "items": items[: request.count],
        "champion": model.bundle.owner,
        "model_version": model.bundle.version,
        "variant": variant,
    }


def _log_line(
    answered: dict[str, Any],
    request: PredictRequest,
    prediction: Prediction | Recommendation | None,
    salt: str,
) -> dict[str, Any]:
    items = [each["item"] for each in answered.get("items", ())]
    return {
        "answered_at": datetime.now(UTC).isoformat(),
        **answered,
        **({"items": items} if "items" in answered else {}),
        "entity_id": hash_addresses(answered["entity_id"], salt),
        "anonymous_id": hash_addresses(request.anonymous_id() or "", salt) or None,
        "user_id": hash_addresses(request.user_id() or "", salt) or None,
        "event_count": prediction and prediction.event_count,
        "point_at": (prediction and prediction.point_at and f"{prediction.point_at}Z") or None,
        "features_hash": prediction and prediction.features_hash,
    }


def _refusal(error: Exception, request_id: str, number: int) -> HTTPException:
    """422 or 503 for the client; the log has the error without values, which may be personal."""
    reason = re.sub(r"""'[^']*'|"[^"]*\"""", "'...'", str(error).partition("\n")[0])
    if isinstance(error, duckdb.DataError | duckdb.InvalidInputException):
        # The SQL answered the bundle's sample, so the cause is in these events.
        log.warning("The features of request %s cannot be computed: %s", request_id, reason)
        place = f"(session {number}, request {request_id})"
        sentence = f"The champion's features cannot be computed from these events {place}."
        return HTTPException(422, sentence)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    kind = type(error).__name__
    log.error("Request %s could not be answered: %s: %s %s", request_id, kind, reason, place)
    sentence = f"The champion could not answer request {request_id}; the server's log says why."
    return HTTPException(503, sentence)
