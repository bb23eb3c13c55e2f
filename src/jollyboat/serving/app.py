"""The HTTP app over a champion: `uvicorn jollyboat.serving.app:app`. Its import reads no file."""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from jollyboat.bundles.bundle import SHARED, open_bundle
from jollyboat.bundles.model import LoadedModel, Prediction
from jollyboat.bundles.ranking_model import RECOMMENDED, Recommendation
from jollyboat.landing.prediction_log import PredictionLog, land_leftovers
from jollyboat.serving import metrics, pages
from jollyboat.serving.answers import (
    ServedQuestion,
    answer_requests,
    entity_of,
    format_answer,
    format_recommendation,
    visitor_of,
)
from jollyboat.serving.batch_scores import latest_score
from jollyboat.serving.champions import NO_CHAMPION, Champions
from jollyboat.serving.guard import Guard, check_is_json, has_token
from jollyboat.serving.request_body import SMALL, body_of
from jollyboat.serving.request_queue import RequestQueue
from jollyboat.serving.schema import (
    TOO_LONG,
    Answer,
    BatchAnswer,
    BatchRequest,
    PredictRequest,
    QuestionBatch,
    QuestionRequest,
    RankingAnswer,
    request_body_schema,
)
from jollyboat.store import Store, UserError, default_store, project_settings
from jollyboat.warehouse.questions import forgotten_questions

MOST_BYTES = 4_000_000
# Added where an event lacks a column: a raw line of a log was sent as it is.
CANONICAL = "; an event is sent in the canonical columns, which GET /docs lists"
log = logging.getLogger("serving")
Form = TypeVar("Form", bound=BaseModel)


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Load the champions and follow them; SERVE_BUNDLE serves that one folder, without a log."""
    bundle_folder, store = os.environ.get("SERVE_BUNDLE"), default_store()
    app.state.questions = served = _serve_questions(store, bundle_folder)
    for each in served.values():
        await each.champions.refresh()
    app.state.champions = next(iter(served.values())).champions
    if not any(each.champions.models or each.champions.refused for each in served.values()):
        log.warning(NO_CHAMPION)
    has_log = not bundle_folder and os.environ.get("SERVE_LOG") != "0"
    app.state.log = _open_log(store) if has_log else None
    app.state.large_requests = asyncio.Semaphore(1)
    # A thread with a large request hands over to the event loop after 1 ms.
    sys.setswitchinterval(0.001)
    # A batch is thousands of rows without garbage; the default threshold searches it ten times.
    gc.set_threshold(50_000)
    # No collection searches the libraries' objects, which would delay all answers.
    gc.freeze()
    app.state.tasks = [
        *(asyncio.create_task(each.queue.work()) for each in served.values()),
        asyncio.create_task(_follow_disk(app)),
    ]
    yield
    for task in app.state.tasks:
        task.cancel()
    if app.state.log:
        app.state.log.land()


def _serve_questions(store: Store, bundle_folder: str | None) -> dict[str, ServedQuestion]:
    """The questions of project.toml by name, the first one at the front; or that of one bundle."""
    if bundle_folder:
        name = ""
        with suppress(UserError):  # the champions refuse a broken bundle
            name = open_bundle(Path(bundle_folder)).question.get("name", "")
        champions = Champions(store.of(name), Path(bundle_folder).absolute())
        return {name: ServedQuestion(name, champions, RequestQueue(champions))}
    settings, served = project_settings(), {}
    for sentence in forgotten_questions(store, settings):
        log.warning(sentence)
    for name in settings.questions:
        within = settings.store_name(name)
        private = frozenset(settings.tenants.private)
        champions = Champions(store.of(within), private=private)
        served[name] = ServedQuestion(within, champions, RequestQueue(champions))
    return served


class RoutingShortcut:
    """Calls the endpoint of a POST request without query parameters directly.

    FastAPI's routing takes as long as the validation of twenty events.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_plain_post = (
            scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]
        )
        route = POST_ROUTES.get(scope["path"]) if is_plain_post else None
        if route is None:
            return await self._app(scope, receive, send)
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except HTTPException as error:
            response = await http_exception_handler(request, error)
        return await response(scope, receive, send)


# /docs is in jollyboat.serving.pages.
app = FastAPI(title="Predictions", lifespan=lifespan, docs_url=None, redoc_url=None)
app.add_middleware(RoutingShortcut)
app.add_middleware(Guard)
app.add_middleware(metrics.RequestMetrics)


@app.post("/predict", response_model=Answer, openapi_extra=request_body_schema(PredictRequest))
async def predict(request: Request, explain: bool = False) -> Response:
    """The probability that the session's outcome follows, from its events so far."""
    (answer,) = await _answer(request, PredictRequest, explain)
    return Response(to_json(answer), media_type="application/json")


@app.post(
    "/predict/batch", response_model=BatchAnswer, openapi_extra=request_body_schema(BatchRequest)
)
async def predict_batch(request: Request, explain: bool = False) -> Response:
    """The same for many sessions, all or none."""
    answers = await _answer(request, BatchRequest, explain)
    return Response(to_json({"answers": answers}), media_type="application/json")


@app.post(
    "/predict/{question}",
    response_model=Answer | RankingAnswer,
    openapi_extra=request_body_schema(QuestionRequest),
)
async def predict_question(request: Request, question: str, explain: bool = False) -> Response:
    """The answer to another question than the first, from the events of one entity.

    That to a ranking question has `items`: the best ones, each with its score and reason.
    """
    (answer,) = await _answer(request, QuestionRequest, explain, question)
    return Response(to_json(answer), media_type="application/json")


@app.post(
    "/predict/{question}/batch",
    response_model=BatchAnswer,
    openapi_extra=request_body_schema(QuestionBatch),
)
async def predict_question_batch(
    request: Request, question: str, explain: bool = False
) -> Response:
    """The same for many entities, all or none."""
    answers = await _answer(request, QuestionBatch, explain, question)
    return Response(to_json({"answers": answers}), media_type="application/json")


@app.get("/scores/{question}/{tenant_id}/{entity_id:path}")
def scores(question: str, tenant_id: str, entity_id: str, request: Request) -> Response:
    """The newest batch score of an entity, with the time that it is about and was made."""
    served = _question_of(request.app, question)
    score = latest_score(served.champions.store, tenant_id, entity_id)
    if score is None:
        raise HTTPException(404, f"The newest scores of {question} do not have this entity.")
    return JSONResponse(score)


POST_ROUTES = {route.path: route for route in app.routes if isinstance(route, APIRoute)}
app.include_router(pages.router)
for kind in (StarletteHTTPException, UserError, OSError):
    app.add_exception_handler(kind, pages.show_error)


@app.get("/health")
async def health(request: Request) -> dict[str, str]:
    """The process is alive; `prediction_log` says whether answers are logged."""
    prediction_log = request.app.state.log
    if not prediction_log:
        state = "off"
    elif prediction_log.trouble:
        lost = f"{prediction_log.lost} answers are not in it"
        state = f"not written ({prediction_log.trouble}); {lost}"
    else:
        state = "written"
    return {"status": "alive", "prediction_log": state}


@app.get("/ready")
async def ready(request: Request) -> Response:
    """A champion is loaded and answered its sample, else 503; `refused` lists unusable bundles.

    A request without the token gets the status alone.
    """
    champions = request.app.state.champions
    if not pages.is_serving(request.app):
        raise HTTPException(503, champions.why_not() if has_token(request) else "not ready")
    if not has_token(request):
        return JSONResponse({"status": "ready"})
    served = request.app.state.questions
    refused = sorted(text for each in served.values() for text in each.champions.refused.values())
    state = {"status": "ready", "champions": champions.versions(), "refused": refused}
    if len(served) > 1:
        state["questions"] = {name: each.champions.versions() for name, each in served.items()}
    return JSONResponse(state)


@app.get("/model")
async def model(request: Request, tenant_id: str = SHARED, question: str = "") -> Response:
    """The manifest of a tenant's champion, since when and why it is champion, and its card."""
    champion = await _champion_of(request.app, tenant_id, question)
    owner, about = champion.bundle.owner, f"&question={question}" if question else ""
    return JSONResponse(
        {
            "champion": owner,
            "card": f"/model/card?tenant_id={owner}{about}",
            "standing": champion.standing,
            "manifest": champion.bundle.manifest,
        }
    )


@app.get("/model/card", response_class=HTMLResponse)
async def card(request: Request, tenant_id: str = SHARED, question: str = "") -> Response:
    """The model card of a tenant's champion."""
    champion = await _champion_of(request.app, tenant_id, question)
    return FileResponse(champion.bundle.card, media_type="text/html")


@app.get("/metrics", response_class=PlainTextResponse)
async def prometheus_metrics() -> Response:
    """Requests, latency, scores, errors and the log's state, for Prometheus."""
    text = metrics.format_metrics()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _describe_api() -> dict[str, Any]:
    """The OpenAPI description; its example is the shared champion's own sample."""
    description = FastAPI.openapi(app)
    paths = description["paths"]
    for name, served in app.state.questions.items():
        champion = served.champions.of(SHARED)
        if champion and not served.name:
            _add_example(paths["/predict"]["post"], champion)
        elif champion:
            paths[f"/predict/{name}"] = {"post": _operation_of(name, paths)}
            _add_example(paths[f"/predict/{name}"]["post"], champion)
    if os.environ.get("SERVE_TOKEN"):
        scheme = {"token": {"type": "http", "scheme": "bearer"}}
        description.setdefault("components", {})["securitySchemes"] = scheme
        for path in ("/predict", "/predict/batch", "/model", "/model/card"):
            for operation in paths[path].values():
                operation["security"] = [{"token": []}]
    return description


app.openapi = _describe_api


def _operation_of(name: str, paths: dict[str, Any]) -> dict[str, Any]:
    """The description of POST /predict/{question} for one question."""
    operation = deepcopy(paths["/predict/{question}"]["post"])
    operation["operationId"] += f"_{name}"
    parameters = [each for each in operation["parameters"] if each["name"] != "question"]
    return operation | {"parameters": parameters}


def _add_example(operation: dict[str, Any], champion: LoadedModel) -> None:
    sample = champion.bundle.sample
    request = QuestionRequest.model_validate_json(json.dumps(sample["request"]))
    about = (champion, "champion", request, "0" * 32, request.entity() or "")
    if champion.bundle.is_ranking:
        made = Recommendation(sample["answer"]["items"], len(request.events), "", RECOMMENDED)
        answer = format_recommendation(*about, made, ())
    else:
        probability = sample["answer"]["probability"]
        answer = format_answer(*about, Prediction(probability, len(request.events), "", ""))
    operation["requestBody"]["content"]["application/json"]["example"] = sample["request"]
    operation["responses"]["200"]["content"]["application/json"]["example"] = answer


def _open_log(store: Store) -> PredictionLog:
    try:
        land_leftovers(store)
    except OSError as error:
        log.warning("The prediction log of an earlier server stays in data/live: %s", error)
    return PredictionLog(store)


async def _follow_disk(app: FastAPI, seconds: float = 0.5) -> None:
    """Take over changes on disk, forever; with SERVE_PARENT, end when that process has ended."""
    served, prediction_log = app.state.questions.values(), app.state.log
    parent, written, lost = int(os.environ.get("SERVE_PARENT", 0)), 0, 0
    while True:
        await asyncio.sleep(seconds)
        # XGBoost leaves a class for each result; collecting many at once delays answers by 20 ms.
        gc.collect(0)
        for each in served:
            await each.champions.refresh()
        metrics.MODELS_REFUSED.set(sum(len(each.champions.refused) for each in served))
        if prediction_log:
            prediction_log.tend()
            metrics.LOG_LINES.inc(prediction_log.written - written)
            metrics.LOG_LOST.inc(prediction_log.lost - lost)
            metrics.LOG_LAG_SECONDS.set(prediction_log.waiting_seconds)
            written, lost = prediction_log.written, prediction_log.lost
        if parent and os.getppid() != parent:
            signal.raise_signal(signal.SIGTERM)


async def _champion_of(app: FastAPI, tenant_id: str, question: str) -> LoadedModel:
    champions = _question_of(app, question).champions if question else app.state.champions
    if champions.needs(tenant_id):
        await champions.load(tenant_id)
    champion = champions.of(tenant_id)
    if champion is None:
        raise HTTPException(503, champions.why_not(tenant_id))
    return champion


def _question_of(app: FastAPI, name: str) -> ServedQuestion:
    served = app.state.questions
    if name in served:
        return served[name]
    names = ", ".join(filter(None, served))
    raise HTTPException(404, f"There is no question {name!r:.80} in project.toml; it has {names}.")


async def _answer(
    request: Request, form: type[Form], explain: bool, question: str | None = None
) -> list[dict[str, Any]]:
    """An answer for each session of the request's body, or for each entity of another question."""
    began, state = time.perf_counter(), request.app.state
    if question is None:
        served = next(iter(state.questions.values()))
    else:
        served = _question_of(request.app, question)
        if not served.name:  # the first question takes the first one's form
            form = {QuestionRequest: PredictRequest, QuestionBatch: BatchRequest}[form]
    check_is_json(request)
    async with body_of(request, MOST_BYTES) as body:
        if len(body) <= SMALL:
            sessions = _sessions_of(_parse(body, form))
            return await answer_requests(served, state.log, sessions, explain, began)
        # One at a time, in a thread: small requests are answered meanwhile.
        async with state.large_requests:
            sessions = await asyncio.to_thread(_prepare, body, form, served)
            return await answer_requests(served, state.log, sessions, explain, began)


def _prepare(body: bytes, form: type[Form], served: ServedQuestion) -> list[PredictRequest]:
    """The sessions of a large body with their rows, so that the queue has little work with them."""
    sessions = _sessions_of(_parse(body, form))
    for session in sessions:
        entity = entity_of(session, served) if served.name else None
        visitor = visitor_of(session, entity, served)
        if served.name and visitor is None:
            continue  # its variant is not drawn yet, and a challenger may read another history
        if choice := served.champions.pick(session.tenant_id, visitor):
            session.prepare_rows(choice[0])
    return sessions


def _sessions_of(parsed: BaseModel) -> list[PredictRequest]:
    if isinstance(parsed, QuestionBatch):
        return parsed.requests
    return parsed.sessions if isinstance(parsed, BatchRequest) else [parsed]


def _parse(body: bytes, form: type[Form]) -> Form:
    """The body in this form, else 422 or 413 with what is wrong but not what was sent."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)[:20]
    status = 413 if any(each["type"] in TOO_LONG for each in errors) else 422
    for each in errors:
        if each["type"] == "missing" and "events" in each["loc"]:
            each["msg"] += CANONICAL
    # FastAPI's own form; `loc` numbers sessions and events from 0.
    raise HTTPException(status, [{**each, "loc": ["body", *each["loc"]]} for each in errors])
