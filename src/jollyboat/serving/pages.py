"""The server's pages: start page, reports below data/ and review queue; the API needs none."""

import asyncio
import json
import logging
import os
import secrets
from contextlib import suppress
from urllib.parse import parse_qs, urlencode

import pandas as pd
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
)
from starlette.exceptions import HTTPException as StarletteHTTPException

from jollyboat.pages.page import render
from jollyboat.review import review
from jollyboat.serving import briefing, fleet_page
from jollyboat.serving.guard import COOKIE, check_token
from jollyboat.serving.project_state import read_state
from jollyboat.serving.request_body import body_of
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, UserError, default_store, person, project_settings, synced
from jollyboat.store.settings import Settings

MOST_BYTES = 16_000
SERVED = "/page/"  # what data/ is to a browser
SCORES = ("scores.csv", "scores.parquet")  # files that a page links to
FOLDERS = {"docs", "models", "monitor", "questions", "reports", "runs", "scores"}
log = logging.getLogger("serving")
router = APIRouter(include_in_schema=False)


def is_serving(app: FastAPI) -> bool:
    """Whether a champion is loaded and the tasks that serve it run."""
    has_champion = any(each.champions.models for each in app.state.questions.values())
    return has_champion and not any(task.done() for task in app.state.tasks)


async def show_error(request: Request, error: Exception) -> Response:
    """An HTTPException, UserError or OSError as a sentence: a page in a browser, else JSON."""
    status, sentence, headers = 503, str(error), None
    if isinstance(error, StarletteHTTPException):
        status, sentence, headers = error.status_code, error.detail, error.headers
    elif isinstance(error, OSError):
        file, reason = error.filename or "A file of data/", error.strerror or error
        sentence = f"{file} cannot be used ({reason}). Fix it, then try again."
        log.warning("%s %s: %s", request.method, request.url.path, sentence)
    if isinstance(sentence, str) and "text/html" in request.headers.get("accept", ""):
        html = render("error.html", SERVED, title=f"Error {status}", sentence=sentence)
        return HTMLResponse(html, status, headers)
    return JSONResponse({"detail": sentence}, status, headers)


@router.get("/")
def start(request: Request, token: str = "") -> Response:
    """The state of the project on one page; `?token=` is moved to a cookie."""
    if token and os.environ.get("SERVE_TOKEN"):
        response = RedirectResponse("/", 303)
        value = token.encode().decode("latin-1")
        response.set_cookie(COOKIE, value, httponly=True, samesite="strict")
        return response
    check_token(request)
    state = read_state(default_store())
    server = _server_state(request.app, state.pop("troubles"), bool(state["champions"]))
    queue = _review_queue(request.app, state["data"]["id"]) if state["data"] else None
    pending = None if queue is None else len(review.unjudged(queue, state["judgements"]))
    context = state | briefing.gather(default_store(), state, pending)
    return _page("start.html", "Overview", server=server, pending=pending, **context)


def _server_state(app: FastAPI, troubles: dict, has_pointer: bool) -> dict[str, object]:
    champions, log = app.state.champions, app.state.log
    refused = sorted(champions.refused.values())
    if not refused and not champions.models:
        refused = [champions.why_not()]
    return {
        "is_running": True,
        "is_serving": is_serving(app),
        "refused": [text for text in refused if not any(str(path) in text for path in troubles)],
        "log_trouble": log and log.trouble,
        "troubles": list(troubles.values()),
        "is_new": not (champions.models or champions.refused or troubles or has_pointer),
    }


@router.get("/tenants")
def tenants(question: str = "", message: str = "") -> HTMLResponse:
    """Every tenant in a row, and a form to change the model of one."""
    settings = project_settings()
    store = default_store().of(settings.store_name(question))
    title = f"Tenants · {settings.project.name}"
    about = settings.of(store.question)
    context = {"to_data": SERVED, "is_running": True, "message": message}
    return HTMLResponse(fleet_page.page(store, about, title, **context))


@router.post("/tenants")
async def change_tenant(request: Request) -> Response:
    """Change a tenant's model as the form says, and show the page again."""
    form = await _read_form(request)
    settings = project_settings()
    question, fields = form.get("question", ""), ("tenant", "action", "why")
    store = default_store().of(settings.store_name(question))
    values = [form.get(name, "") for name in fields]
    try:
        message = await asyncio.to_thread(_change_tenant, store, values, settings)
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    return RedirectResponse(
        f"/tenants?{urlencode({'question': question, 'message': message})}", 303
    )


def _change_tenant(store: Store, values: list[str], settings: Settings) -> str:
    with synced(store, "served"):
        return fleet_page.change(store, *values, settings.of(store.question))


@router.get("/docs")
def describe(request: Request) -> HTMLResponse:
    """The API's description; FastAPI's own page does not open offline."""
    address, token = str(request.base_url).rstrip("/"), bool(os.environ.get("SERVE_TOKEN"))
    api = request.app.openapi()
    context = {"api": api, "address": address, "token": token, "dumps": json.dumps}
    return _page("api.html", "API", nonce=secrets.token_urlsafe(12), **context)


@router.get("/page/{path:path}")
def page(path: str) -> Response:
    """A run's page or scores below data/, in a folder of pages; the overview is the start page."""
    root = default_store().root.resolve()
    if path == default_store().overview.name:
        return RedirectResponse("/")
    if path == "reports/tenants.html":
        return RedirectResponse("/tenants")
    with suppress(OSError, ValueError):  # the path is too long, or is none
        file = (root / path).resolve()
        is_page = file.is_relative_to(root) and file.suffix == ".html" and file.is_file()
        if is_page and file.relative_to(root).parts[0] in FOLDERS:
            return FileResponse(file, media_type="text/html")
        if file.name in SCORES and file.is_file() and file.parents[1].name == "scores":
            return FileResponse(file, filename=file.name)
    raise HTTPException(404, "There is no such page.")


@router.get("/review")
async def show_session(request: Request) -> HTMLResponse:
    """The next session of the queue."""
    await request.app.state.champions.load_all()
    return await asyncio.to_thread(_show_session, request.app)


def _show_session(app: FastAPI) -> HTMLResponse:
    store = default_store()
    champions, session = app.state.champions, None
    newest = snapshot.open_latest(store)
    queue = _review_queue(app, newest.id)
    if queue is None:
        queue = review.queue(store, champions.of, **project_settings().review.model_dump())
        app.state.review_queue = (_queue_key(app, newest.id), queue)
    judgements = review.judged(store)
    pending = review.unjudged(queue, judgements)
    if len(pending):
        row = pending.iloc[0]
        session = review.story(newest, row, champions.of(row["tenant_id"]))
    return _page(
        "review.html",
        "Review",
        nonce=secrets.token_urlsafe(12),
        judgement_id=secrets.token_hex(16),
        waiting=len(pending),
        done=len(judgements),
        session=session,
        last=judgements[-1] if judgements else None,
        judgements=review.JUDGEMENTS,
        kinds=review.KINDS,
        guidelines=review.read_guidelines(),
        guidelines_file=review.GUIDELINES,
        reviewer=person(),
        longest={"comment": review.LONGEST_COMMENT, "by": review.LONGEST_NAME},
    )


@router.post("/review")
async def judge_session(request: Request) -> Response:
    """Keep a judgement and show the next session."""
    form = await _read_form(request)
    try:
        await asyncio.to_thread(_keep_judgement, form)
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    return RedirectResponse("/review", 303)


async def _read_form(request: Request) -> dict[str, str]:
    """The fields of a form; 403 unless this server's own page sent it."""
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(403, "A form is sent from this server's own page.")
    async with body_of(request, MOST_BYTES) as body:
        fields = parse_qs(body.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}


def _review_queue(app: FastAPI, snapshot_id: str) -> pd.DataFrame | None:
    """The queue of this snapshot and these champions; None before /review made it."""
    key, queue = getattr(app.state, "review_queue", (None, None))
    return queue if key == _queue_key(app, snapshot_id) else None


def _queue_key(app: FastAPI, snapshot_id: str) -> tuple:
    settings = project_settings().review.model_dump()
    return snapshot_id, *sorted(app.state.champions.versions().items()), *settings.values()


def _keep_judgement(form: dict[str, str]) -> None:
    store = default_store()
    by = " ".join(form.get("by", "").split())[: review.LONGEST_NAME] or person()
    if form.get("judgement") == "undo":
        review.undo(store, by, form.get("undoes", ""))
        return
    names = (*review.KEYS, "point_at", "judgement", "judgement_id", "comment")
    judgement = {name: form.get(name, "").strip() for name in names}
    tenant, entity = judgement["tenant_id"], judgement["entity_id"]
    if not review.knows(snapshot.open_latest(store), tenant, entity):
        raise UserError(f"The newest snapshot has no session {entity!r:.80} of {tenant!r:.80}.")
    review.judge(store, by, **judgement)


def _page(template: str, name: str, **context: object) -> HTMLResponse:
    title = f"{name} · {project_settings().project.name}"
    return HTMLResponse(render(template, SERVED, title=title, **context))
