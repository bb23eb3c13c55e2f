"""What a request must have before anything answers it, and the headers of every response."""

import hmac
import os
import re

from fastapi import HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "serve_token"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
OF_ANY_HOST = {"/health", "/metrics", "/ready"}
WITHOUT_TOKEN = {"/", "/health", "/metrics", "/ready"}  # "/" checks the token itself
HEADERS = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


class Guard:
    """Middleware that refuses a wrong host (400) or token (401)."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        request, path = Request(scope), scope["path"]
        try:
            if path not in OF_ANY_HOST:
                _check_host(request)
            if path not in WITHOUT_TOKEN:
                check_token(request)
        except HTTPException as error:
            response = await http_exception_handler(request, error)
            return await response(scope, receive, send_with_headers)
        return await self._app(scope, receive, send_with_headers)


def _check_host(request: Request) -> None:
    """400 where the host is neither a loopback name nor in ALLOWED_HOSTS.

    A page whose name leads to this server's address (DNS rebinding) sends its own name.
    """
    sent = request.headers.get("host", "").lower()
    host = re.sub(r":\d*$", "", sent)
    allowed = (*LOOPBACK, *os.environ.get("ALLOWED_HOSTS", "").lower().replace(",", " ").split())
    for name in allowed:
        if name in (host, sent) or (name.startswith("*") and host.endswith(name[1:])):
            return
    raise HTTPException(
        400,
        f"This server does not answer for the host {host!r:.80}. If the name is right, "
        "start it with ALLOWED_HOSTS set to the names that clients use, as in "
        "`make serve ALLOWED_HOSTS=shop.example.com`.",
    )


def has_token(request: Request) -> bool:
    """Whether the request has SERVE_TOKEN as bearer or in the cookie, or none is set."""
    token = os.environ.get("SERVE_TOKEN")
    if not token:
        return True
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    sent = bearer or request.cookies.get(COOKIE, "")
    return hmac.compare_digest(sent.encode("latin-1", "replace"), token.encode())


def check_token(request: Request) -> None:
    """401 where SERVE_TOKEN is set and the request does not have it."""
    if not has_token(request):
        sentence = "A token is needed: Authorization: Bearer …"
        raise HTTPException(401, sentence, {"WWW-Authenticate": "Bearer"})


def check_is_json(request: Request) -> None:
    """415 where the body is not declared as JSON: a foreign page can send any other type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(
            415, "The body must be JSON, sent with the header Content-Type: application/json."
        )
