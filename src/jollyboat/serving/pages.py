"""The server's pages: the start page, the reports below data/, and the review queue. The API needs none of them."""

import asyncio
import hmac
import json
import os
import secrets
from contextlib import suppress
from urllib.parse import parse_qs

import pandas as pd
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from jollyboat.champions.champion import person
from jollyboat.pages.page import render
from jollyboat.review import review
from jollyboat.serving.body import read
from jollyboat.serving.state import state
from jollyboat.snapshots import snapshot
from jollyboat.store import default_store, project_settings
from jollyboat.store.errors import UserError

MOST_BYTES = 10_000
COOKIE = "serve_token"
router = APIRouter(include_in_schema=False)


def refuse_strangers(request: Request) -> None:
    """401 without the token, where SERVE_TOKEN sets one; a browser carries it in a cookie, see `start`."""
    if token := os.environ.get("SERVE_TOKEN"):
        sent = request.headers.get("authorization", "").removeprefix(
            "Bearer "
        ) or request.cookies.get(COOKIE, "")
        if not hmac.compare_digest(sent.encode("latin-1", "replace"), token.encode()):
            raise HTTPException(
                401, "A token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
            )


def answers(app: FastAPI) -> bool:
    """Whether a champion is loaded, and what serves it runs."""
    return bool(app.state.champions.models) and not any(task.done() for task in app.state.tasks)


@router.get("/")
def start(request: Request, token: str = "") -> Response:
    """The state of everything on one page. `?token=` is taken once and kept as a cookie of this browser."""
    if token and os.environ.get("SERVE_TOKEN"):
        kept = RedirectResponse("/", 303)
        kept.set_cookie(COOKIE, token.encode().decode("latin-1"), httponly=True, samesite="strict")
        return kept
    refuse_strangers(request)
    champions, log = request.app.state.champions, request.app.state.log
    shown = state(default_store())
    troubles = shown.pop("troubles")
    refused = sorted(champions.refused.values()) or (
        [] if champions.models else [champions.why_not()]
    )
    server = {
        "answers": answers(request.app),
        "refused": [told for told in refused if not any(str(path) in told for path in troubles)],
        "log_trouble": log and log.trouble,
        "troubles": list(troubles.values()),
        "is_new": not (champions.models or champions.refused or troubles or shown["champions"]),
    }
    made = _queue(request.app, shown["data"]["id"]) if shown["data"] else None
    waiting = None if made is None else len(review.unjudged(made, shown["judged"]))
    return HTMLResponse(
        render("start.html", title=_title("Start"), server=server, waiting=waiting, **shown)
    )


@router.get("/docs")
def describe(request: Request) -> HTMLResponse:
    """The API's description as a page that opens offline, which FastAPI's own does not."""
    address, token = str(request.base_url).rstrip("/"), bool(os.environ.get("SERVE_TOKEN"))
    return HTMLResponse(
        render(
            "api.html",
            title=_title("API"),
            api=request.app.openapi(),
            address=address,
            token=token,
            dumps=json.dumps,
        )
    )


@router.get("/page/{path:path}")
def page(request: Request, path: str) -> FileResponse:
    """A page that a run left below data/."""
    refuse_strangers(request)
    root = default_store().root.resolve()
    with suppress(OSError, ValueError):  # a path too long for the disk, or no path at all
        found = (root / path).resolve()
        if found.is_relative_to(root) and found.suffix == ".html" and found.is_file():
            return FileResponse(found, media_type="text/html")
    raise HTTPException(404, "There is no such page.")


@router.get("/review")
def ask(request: Request) -> HTMLResponse:
    """The next session of the queue."""
    refuse_strangers(request)
    store, champions, settings = (
        default_store(),
        request.app.state.champions,
        project_settings().review,
    )
    try:
        newest = snapshot.open_latest(store)
        if (made := _queue(request.app, newest.id)) is None:
            made = review.queue(store, champions.of, **settings.model_dump())
            request.app.state.queue = (_queue_of(request.app, newest.id), made)
        done = review.judged(store)
        waiting = review.unjudged(made, done)
        asked = None
        if len(waiting):
            row = waiting.iloc[0]
            asked = review.story(newest, row, champions.of(row["tenant_id"]))
    except UserError as refusal:
        raise HTTPException(503, str(refusal)) from None
    nonce, counts = secrets.token_urlsafe(12), {"waiting": len(waiting), "done": len(done)}
    context = {
        "asked": asked,
        "last": done[-1] if done else None,
        "judgements": review.JUDGEMENTS,
        "kinds": review.KINDS,
    }
    return HTMLResponse(
        render("review.html", title=_title("Review"), nonce=nonce, **counts, **context)
    )


@router.post("/review")
async def answer(request: Request) -> Response:
    """Keep a judgement and go on; only a page of this server may send one."""
    refuse_strangers(request)
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(403, "A judgement is sent from this server's own page.")
    body = await read(request, MOST_BYTES)
    sent = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
    try:
        await asyncio.to_thread(_keep, sent)
    except UserError as refusal:
        raise HTTPException(422, str(refusal)) from None
    return RedirectResponse("/review", 303)


def _queue(app: FastAPI, snapshot_id: str) -> pd.DataFrame | None:
    """The queue that was made of this snapshot by these champions; None before /review was asked for."""
    made_of, made = getattr(app.state, "queue", (None, None))
    return made if made_of == _queue_of(app, snapshot_id) else None


def _queue_of(app: FastAPI, snapshot_id: str) -> tuple:
    return (
        snapshot_id,
        *sorted(app.state.champions.serving().items()),
        *project_settings().review.model_dump().values(),
    )


def _keep(sent: dict[str, str]) -> None:
    store = default_store()
    if sent.get("judgement") == "undo":
        review.undo(store, person(), sent.get("undoes", ""))
        return
    said = {name: sent.get(name, "") for name in (*review.KEYS, "point_at", "judgement")}
    if not review.knows(snapshot.open_latest(store), said["tenant_id"], said["entity_id"]):
        raise UserError(
            f"The newest snapshot has no session {said['entity_id']!r:.80} of {said['tenant_id']!r:.80}."
        )
    review.judge(store, person(), **said)


def _title(what: str) -> str:
    return f"{what} · {project_settings().project.name}"
