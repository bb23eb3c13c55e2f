"""Answers to prediction requests: each is in the prediction log before the client has it."""

import logging
import re
import time
import traceback
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import duckdb
from fastapi import HTTPException
from starlette.datastructures import State

from jollyboat.bundles.model import PREDICTED, LoadedModel, Prediction, answer
from jollyboat.serving import metrics
from jollyboat.serving.schema import PredictRequest
from jollyboat.store import hash_addresses

FAILED = "failed"  # the status of an answer that only the log has
log = logging.getLogger("serving")


async def answer_requests(
    state: State, requests: list[PredictRequest], explain: bool, began: float
) -> list[dict[str, Any]]:
    """An answer for each request, or an HTTPException for all of them where one fails."""
    ids = [uuid4().hex for _ in requests]
    entities = [request.entity_id() or own for request, own in zip(requests, ids, strict=True)]
    futures = [
        state.queue.predict(
            (request.tenant_id, entity, request.rows),
            request.anonymous_id(),
            explain or request.explain,
            place,
        )
        for place, (request, entity) in enumerate(zip(requests, entities, strict=True))
    ]
    results = [await future for future in futures]
    if None in results:
        raise HTTPException(503, state.champions.why_not())
    # The time of a batch is not the latency of an answer.
    latency_ms = (time.perf_counter() - began) * 1_000 if len(requests) == 1 else None
    failures = [number for number, result in enumerate(results) if isinstance(result[2], Exception)]
    answers = []
    # Where a batch fails, the log has its first failure, which the experiment's readout counts.
    for number in failures[:1] or range(len(requests)):
        model, variant, prediction = results[number]
        request, request_id = requests[number], ids[number]
        made = None if failures else prediction
        answered = format_answer(model, variant, request, request_id, entities[number], made)
        if state.log:
            line = _log_line(answered, request, made, model.salt)
            state.log.append(line | {"latency_ms": latency_ms and round(latency_ms, 3)})
        if failures:
            raise _refusal(prediction, request_id, number)
        metrics.record_answer(answered)
        has_reasons = prediction.reasons is not None and prediction.status == PREDICTED
        answers.append(answered | ({"reasons": prediction.reasons} if has_reasons else {}))
    return answers


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


def _log_line(
    answered: dict[str, Any], request: PredictRequest, prediction: Prediction | None, salt: str
) -> dict[str, Any]:
    return {
        "answered_at": datetime.now(UTC).isoformat(),
        **answered,
        "entity_id": hash_addresses(answered["entity_id"], salt),
        "anonymous_id": hash_addresses(request.anonymous_id() or "", salt) or None,
        "user_id": hash_addresses(request.user_id() or "", salt) or None,
        "event_count": prediction and prediction.event_count,
        "point_at": prediction and prediction.point_at + "Z",
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
