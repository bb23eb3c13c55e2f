"""The HTTP app over a champion: `uvicorn serving.app:app`. Its import touches no disk; its start loads the champion."""

import asyncio
import logging
import os
import re
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import duckdb
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from rails.store import default_store
from serving.batches import Batches
from serving.champions import NO_CHAMPION, Champions
from serving.schema import Answer, PredictRequest, predict_body

MOST_BYTES = 2_000_000
log = logging.getLogger("serving")


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Load what is there, then follow it; SERVE_BUNDLE serves that one folder and nothing else."""
    only = os.environ.get("SERVE_BUNDLE")
    champions = Champions(default_store(), Path(only).absolute() if only else None)
    await champions.refresh()
    if not champions.models and not champions.refused:
        log.warning(NO_CHAMPION)
    app.state.champions, app.state.batches = champions, Batches(champions)
    app.state.tasks = [asyncio.create_task(app.state.batches.work()), asyncio.create_task(champions.follow())]
    yield
    for task in app.state.tasks:
        task.cancel()


app = FastAPI(title="Predictions", lifespan=lifespan)


@app.post("/predict", response_model=Answer, openapi_extra={"requestBody": predict_body()})
async def predict(request: Request) -> Response:
    """The probability that the session's outcome follows, from its events so far."""
    try:
        body = await _body(request)
    except ClientDisconnect:
        return _refusal(400, "The request ended before its body did.")
    if body is None:
        return _refusal(413, f"A request holds at most {MOST_BYTES:,} bytes.")
    try:
        asked = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        return _unprocessable(error)
    request_id = uuid4().hex
    entity_id = asked.entity_id() or request_id
    try:
        found = await request.app.state.batches.predict(asked.tenant_id, entity_id, asked.rows())
    except (duckdb.DataError, duckdb.InvalidInputException) as error:
        # The SQL answered the sample, so it is these events that it cannot read.
        log.warning("The features of request %s cannot be computed: %s", request_id, _without_values(error))
        return _refusal(422, f"The champion's features cannot be computed from these events (request {request_id}).")
    except Exception:
        log.exception("Request %s could not be answered", request_id)
        return _refusal(503, f"The champion could not answer request {request_id}; the server's log says why.")
    if found is None:
        return _refusal(503, request.app.state.champions.why_not())
    model, probability = found
    answer = Answer(
        request_id=request_id,
        tenant_id=asked.tenant_id,
        entity_id=entity_id,
        champion=model.bundle.owner,
        model_version=model.bundle.version,
        variant="champion",
        **model.answer(probability),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@app.get("/health")
async def health() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@app.get("/ready")
async def ready(request: Request) -> Response:
    """A champion is loaded and answered its sample, else 503; `refused` says which newer bundles are not used."""
    champions = request.app.state.champions
    if not champions.models or any(task.done() for task in request.app.state.tasks):
        return _refusal(503, champions.why_not())
    serving = {owner: model.bundle.version for owner, model in champions.models.items()}
    return JSONResponse({"status": "ready", "champions": serving, "refused": sorted(champions.refused.values())})


@app.get("/model")
async def model(request: Request, tenant_id: str = "pooled") -> Response:
    """The manifest of the champion that answers for a tenant, and where its card is."""
    champions = request.app.state.champions
    if (found := champions.of(tenant_id)) is None:
        return _refusal(503, champions.why_not())
    bundle = found.bundle
    card = f"/model/card?tenant_id={bundle.owner}"
    standing = found.standing  # since when it is champion, by whom, why, and whether the gate was forced
    return JSONResponse({"champion": bundle.owner, "card": card, "standing": standing, "manifest": bundle.manifest})


@app.get("/model/card")
async def card(request: Request, tenant_id: str = "pooled") -> Response:
    """The page about the champion that answers for a tenant."""
    champions = request.app.state.champions
    if (found := champions.of(tenant_id)) is None:
        return _refusal(503, champions.why_not())
    return FileResponse(found.bundle.card, media_type="text/html")


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is larger than allowed; what is too much is read (a client that still sends would
    not hear the answer), but not kept and not for ever."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MOST_BYTES:
            chunks.append(chunk)
        elif size > 20 * MOST_BYTES:
            break
    return b"".join(chunks) if size <= MOST_BYTES else None


def _unprocessable(error: ValidationError) -> JSONResponse:
    """FastAPI's own form: where (an event by its number, from 0), what and which kind; never the value sent."""
    told = error.errors(include_url=False, include_context=False, include_input=False)
    return JSONResponse({"detail": [{**one, "loc": ["body", *one["loc"]]} for one in told[:20]]}, status_code=422)


def _without_values(error: Exception) -> str:
    """What happened, without what was sent: that may be personal."""
    first_line = str(error).partition("\n")[0]
    return re.sub(r"""'[^']*'|"[^"]*\"""", "'...'", first_line)


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status_code=status)
