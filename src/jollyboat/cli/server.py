"""Commands about the server: start it, open its pages, send it one request."""

import json
import os
import sys
import threading
import time
import webbrowser
from collections.abc import Callable

import click

from jollyboat.cli.options import question_option
from jollyboat.store import Store, UserError, default_store, followed, project_settings

# glibc caches more small pieces of memory, so a request takes a tenth less time.
TUNABLES = "glibc.malloc.tcache_count=500"
OPTIONS = (
    click.option("--host", envvar="HOST", show_envvar=True, help="The address to listen on."),
    click.option("--port", envvar="PORT", show_envvar=True, type=click.IntRange(0, 65_535)),
    click.option("--workers", envvar="WORKERS", show_envvar=True, type=click.IntRange(1)),
)


def _with_options(command: Callable) -> Callable:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(epilog="Example: jollyboat serve --port 8001 --open")
@_with_options
@click.option("--open", "opens", is_flag=True, help="Open the start page in a browser.")
def serve(host: str | None, port: int | None, workers: int | None, opens: bool) -> None:
    """Answer POST /predict with the champion until Ctrl-C.

    The defaults are in project.toml, [serve]."""
    _serve(host, port, workers, page="/" if opens else "")


@click.command(epilog="Example: jollyboat review --port 8001")
@_with_options
def review(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve, and open the review queue in a browser."""
    _serve(host, port, workers, page="/review")


@click.command(epilog="Example: jollyboat ask")
@question_option
def ask(store: Store) -> None:
    """Send the champion's sample request and print the answer.

    The command starts a server for it."""
    from jollyboat.pages.terminal import wrap
    from jollyboat.serving.smoke_test import send_sample

    began = time.monotonic()
    request, status, answer = send_sample(store)
    path = f"/predict/{store.question}" if store.question else "/predict"
    click.echo(wrap(f"POST {path}?explain=true {json.dumps(request)}"))
    click.echo(wrap(f"{status} {json.dumps(answer)}"))
    if status != 200:
        raise UserError(f"The server answered with {status}.")
    version, seconds = answer["model_version"], time.monotonic() - began
    if "items" in answer:
        what = f"{len(answer['items'])} items, first {answer['items'][0]['item']},"
    else:
        what = f"probability {answer['probability']:.3f}"
    click.echo(f"ask: {what} from {version}; {seconds:.1f} s")


def _serve(host: str | None, port: int | None, workers: int | None, page: str) -> None:
    _tune_memory()
    from jollyboat.serving import server

    settings = project_settings().serve
    host = host or settings.host
    listening = server.listen(host, settings.port if port is None else port)
    name = f"[{host}]" if ":" in host else host
    # Clients may use the name that this server listens on.
    os.environ["ALLOWED_HOSTS"] = f"{os.environ.get('ALLOWED_HOSTS', '')} {name}"
    address = f"http://{name}:{listening.getsockname()[1]}"
    click.echo(f"Serving on {address}; its API is at {address}/docs. Ctrl-C stops it.")
    if page:
        click.echo(f"page: {address}{page}")
        threading.Timer(2, webbrowser.open, [address + page]).start()
    with followed(default_store()):
        has_started = server.run(listening, workers or settings.workers)
    if not has_started:
        sys.exit(1)  # the server has printed why


def _tune_memory() -> None:
    """Start this process again with glibc's tunables; only a new process reads them."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
