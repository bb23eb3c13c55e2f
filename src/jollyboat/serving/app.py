"""The HTTP app over a champion: `uvicorn jollyboat.serving.app:app`. Its import touches no disk."""

import asyncio
import gc
import json
import logging
import os
import re
import signal
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import duckdb
from fastapi import FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from jollyboat.bundles.bundle import SHARED
from jollyboat.bundles.features import hash_addresses
from jollyboat.bundles.model import LoadedModel, answer
from jollyboat.landing.prediction_log import PredictionLog, land_leftovers
from jollyboat.serving import metrics, pages
from jollyboat.serving.batches import Batches
from jollyboat.serving.body import read
from jollyboat.serving.champions import NO_CHAMPION, Champions
from jollyboat.serving.schema import (
    TOO_LONG,
    Answer,
    BatchAnswer,
    BatchRequest,
    PredictRequest,
    body_of,
)
from jollyboat.store import default_store

MOST_BYTES = 4_000_000
log = logging.getLogger("serving")
Asked = TypeVar("Asked", bound=BaseModel)


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Load what is there, then follow it; SERVE_BUNDLE serves that one folder, logs nothing and follows nothing."""
    only, store = os.environ.get("SERVE_BUNDLE"), default_store()
    champions = Champions(store, Path(only).absolute() if only else None)
    await champions.refresh()
    if not champions.models and not champions.refused:
        log.warning(NO_CHAMPION)
    app.state.champions, app.state.batches = champions, Batches(champions)
    app.state.log = None if only or os.environ.get("SERVE_LOG") == "0" else PredictionLog(store)
    if app.state.log:
        try:
            land_leftovers(store)
        except OSError as error:
            log.warning("The prediction log of an earlier server stays in data/live: %s", error)
    gc.set_threshold(
        50_000
    )  # a batch is thousands of rows and no garbage: it would be looked through ten times
    gc.freeze()  # what the libraries hold stays: looking through it for garbage would stop all answers for a moment
    app.state.tasks = [
        asyncio.create_task(app.state.batches.work()),
        asyncio.create_task(_follow(app)),
    ]
    yield
    for task in app.state.tasks:
        task.cancel()
    if app.state.log:
        app.state.log.land()


class Direct:
    """Questions without FastAPI's way to a route and its parameters, which takes as long as the validation of twenty
    events; those whose address has parameters go that way."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_plain = (
            scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]
        )
        route = DIRECT.get(scope["path"]) if is_plain else None
        if route is None:
            return await self._app(scope, receive, send)
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except HTTPException as refused:
            response = await http_exception_handler(request, refused)
        return await response(scope, receive, send)


app = FastAPI(
    title="Predictions", lifespan=lifespan, docs_url=None, redoc_url=None
)  # /docs is in jollyboat.serving.pages
app.add_middleware(Direct)
app.add_middleware(metrics.Measured)


@app.post("/predict", response_model=Answer, openapi_extra=body_of(PredictRequest))
async def predict(request: Request, explain: bool = False) -> Response:
    """The probability that the session's outcome follows, from its events so far."""
    began = time.perf_counter()
    asked = await _read(request, PredictRequest)
    (told,) = await _answer(request.app, [asked], explain, began)
    return Response(to_json(told), media_type="application/json")


@app.post("/predict/batch", response_model=BatchAnswer, openapi_extra=body_of(BatchRequest))
async def predict_batch(request: Request, explain: bool = False) -> Response:
    """The same for many sessions, all or none."""
    began = time.perf_counter()
    asked = await _read(request, BatchRequest)
    answers = await _answer(request.app, asked.sessions, explain, began)
    return Response(to_json({"answers": answers}), media_type="application/json")


DIRECT = {route.path: route for route in app.routes if isinstance(route, APIRoute)}
app.include_router(pages.router)


@app.get("/health")
async def health(request: Request) -> dict[str, str]:
    """The process is alive; `prediction_log` says whether answers are kept."""
    kept = request.app.state.log
    if not kept:
        return {"status": "alive", "prediction_log": "off"}
    trouble = f"not written ({kept.trouble}); {kept.lost} answers are not in it"
    return {"status": "alive", "prediction_log": trouble if kept.trouble else "written"}


@app.get("/ready")
async def ready(request: Request) -> Response:
    """A champion is loaded and answered its sample, else 503; `refused` says which newer bundles are not used."""
    champions = request.app.state.champions
    if not pages.answers(request.app):
        raise HTTPException(503, champions.why_not())
    refused = sorted(champions.refused.values())
    return JSONResponse({"status": "ready", "champions": champions.serving(), "refused": refused})


@app.get("/model")
async def model(request: Request, tenant_id: str = SHARED) -> Response:
    """The manifest of the champion that answers for a tenant, and where its card is."""
    pages.refuse_strangers(request)
    found = _champion(request.app, tenant_id)
    bundle = found.bundle
    card = f"/model/card?tenant_id={bundle.owner}"
    standing = (
        found.standing
    )  # since when it is champion, by whom, why, and whether the gate was forced
    return JSONResponse(
        {"champion": bundle.owner, "card": card, "standing": standing, "manifest": bundle.manifest}
    )


@app.get("/model/card", response_class=HTMLResponse)
async def card(request: Request, tenant_id: str = SHARED) -> Response:
    """The page about the champion that answers for a tenant."""
    pages.refuse_strangers(request)
    return FileResponse(_champion(request.app, tenant_id).bundle.card, media_type="text/html")


@app.get("/metrics", response_class=PlainTextResponse)
async def format_metrics() -> Response:
    """Requests, latency, scores, errors and the log's state, for Prometheus."""
    return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _openapi() -> dict[str, Any]:
    """The API's description; its example is the champion's own sample, which was asked when it was made."""
    told = FastAPI.openapi(app)
    if champion := app.state.champions.of(SHARED):
        sample, told_of = champion.bundle.sample, told["paths"]["/predict"]["post"]
        asked = PredictRequest.model_validate_json(json.dumps(sample["request"]))
        told_of["requestBody"]["content"]["application/json"]["example"] = sample["request"]
        told_of["responses"]["200"]["content"]["application/json"]["example"] = _told(
            champion,
            "champion",
            asked,
            "0" * 32,
            asked.entity_id() or "",
            sample["answer"]["probability"],
        )
    if os.environ.get("SERVE_TOKEN"):
        told.setdefault("components", {})["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"}
        }
        for path in ("/predict", "/predict/batch", "/model", "/model/card"):
            for method in told["paths"][path].values():
                method["security"] = [{"token": []}]
    return told


app.openapi = _openapi


async def _follow(app: FastAPI, seconds: float = 0.5) -> None:
    """Look for changes on disk for ever; with SERVE_PARENT, end with the process that started this one."""
    champions, kept, counted = app.state.champions, app.state.log, [0, 0]
    parent = int(os.environ.get("SERVE_PARENT", 0))
    while True:
        await asyncio.sleep(seconds)
        gc.collect(
            0
        )  # XGBoost leaves a class for each result; seldom and many at once, that stopped answers for 20 ms
        await champions.refresh()
        metrics.MODELS_REFUSED.set(len(champions.refused))
        if kept:
            kept.tend()
            metrics.LOG_LINES.inc(kept.written - counted[0])
            metrics.LOG_LOST.inc(kept.lost - counted[1])
            metrics.LOG_LAG_SECONDS.set(kept.waiting_seconds)
            counted = [kept.written, kept.lost]
        if parent and os.getppid() != parent:
            signal.raise_signal(signal.SIGTERM)


def _champion(app: FastAPI, tenant_id: str) -> LoadedModel:
    if (found := app.state.champions.of(tenant_id)) is None:
        raise HTTPException(503, app.state.champions.why_not())
    return found


async def _read(request: Request, form: type[Asked]) -> Asked:
    """The request's body in this form; refused with what is wrong and where, never with what was sent."""
    pages.refuse_strangers(request)
    body = await read(request, MOST_BYTES)
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False, include_input=False)[:20]
        status = 413 if any(one["type"] in TOO_LONG for one in told) else 422
        # FastAPI's own form: where (a session and an event by their number, from 0), what and which kind.
        raise HTTPException(
            status, [{**one, "loc": ["body", *one["loc"]]} for one in told]
        ) from None


async def _answer(
    app: FastAPI, asked: list[PredictRequest], explain: bool, began: float
) -> list[dict[str, Any]]:
    """The answers, in the log before the client has them."""
    ids = [uuid4().hex for _ in asked]
    entities = [one.entity_id() or request_id for one, request_id in zip(asked, ids, strict=True)]
    waiting = [
        app.state.batches.predict(
            (one.tenant_id, entity, one.events), one.anonymous_id(), explain or one.explain
        )
        for one, entity in zip(asked, entities, strict=True)
    ]
    answered = [await one for one in waiting]  # all are in the queue by now
    if None in answered:
        raise HTTPException(503, app.state.champions.why_not())
    failed = [number for number, (*_, found) in enumerate(answered) if isinstance(found, Exception)]
    answers = []
    # All are told or none: where one fails, that one alone goes into the log, for the experiment's readout to count.
    for number in failed[:1] or range(len(asked)):
        model, variant, found = answered[number]
        probability = None if failed else found.probability
        told = _told(model, variant, asked[number], ids[number], entities[number], probability)
        if app.state.log:
            app.state.log.append(
                {
                    "answered_at": datetime.now(UTC).isoformat(),
                    **told,
                    "entity_id": hash_addresses(entities[number], model.salt),
                    "anonymous_id": hash_addresses(asked[number].anonymous_id() or "", model.salt)
                    or None,
                    "user_id": hash_addresses(asked[number].user_id() or "", model.salt) or None,
                    "event_count": None if failed else found.event_count,
                    "point_at": None if failed else found.point_at + "Z",
                    "features_hash": None if failed else found.features_hash,
                    # A batch's time is no answer's.
                    "latency_ms": round((time.perf_counter() - began) * 1_000, 3)
                    if len(asked) == 1
                    else None,
                }
            )
        if failed:
            raise _unanswerable(found, ids[number], number)
        metrics.SCORE.labels(told["champion"], variant).observe(probability)
        metrics.PREDICTIONS.labels(told["champion"], told["model_version"], variant).inc()
        answers.append(told if found.reasons is None else told | {"reasons": found.reasons})
    return answers


def _told(
    model: LoadedModel,
    variant: str,
    asked: PredictRequest,
    request_id: str,
    entity_id: str,
    probability: float | None,
) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "tenant_id": asked.tenant_id,
        "entity_id": entity_id,
        **(
            answer(probability, model.bundle.threshold)
            if probability is not None
            else {"probability": None}
        ),
        "champion": model.bundle.owner,
        "model_version": model.bundle.version,
        "variant": variant,
    }


def _unanswerable(error: BaseException, request_id: str, number: int) -> HTTPException:
    """What the client is told, and the log without what was sent: that may be personal."""
    told = re.sub(r"""'[^']*'|"[^"]*\"""", "'...'", str(error).partition("\n")[0])
    if isinstance(error, duckdb.DataError | duckdb.InvalidInputException):
        # The SQL answered the sample, so it is these events that it cannot read.
        log.warning("The features of request %s cannot be computed: %s", request_id, told)
        what = f"The champion's features cannot be computed from these events (session {number}, request {request_id})."
        return HTTPException(422, what)
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    log.error(
        "Request %s could not be answered: %s: %s (%s)",
        request_id,
        type(error).__name__,
        told,
        where,
    )
    return HTTPException(
        503, f"The champion could not answer request {request_id}; the server's log says why."
    )
