"""What Prometheus is told; several workers keep their figures in PROMETHEUS_MULTIPROC_DIR, and each tells of all."""

import asyncio
import os
import time
from pathlib import Path

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jollyboat.store import is_alive

MILLISECONDS = [each / 1_000 for each in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000)]
REQUEST_SECONDS = Histogram(
    "request_seconds", "Seconds per request", ["path", "status"], buckets=MILLISECONDS
)
SCORE = Histogram(
    "prediction_score",
    "Probabilities",
    ["champion", "variant"],
    buckets=[n / 10 for n in range(1, 10)],
)
PREDICTIONS = Counter("predictions", "Answers", ["champion", "model_version", "variant"])
MODELS_REFUSED = Gauge(
    "models_refused", "Newer bundles that are not used, see /ready", multiprocess_mode="livemax"
)
LOG_LINES = Counter("prediction_log_lines", "Answers written to the log")
LOG_LOST = Counter("prediction_log_lost", "Answers that could not be written to the log")
LOG_LAG_SECONDS = Gauge(
    "prediction_log_lag_seconds", "Age of what has not landed", multiprocess_mode="livemax"
)


STOPPING = JSONResponse({"detail": "The server stops; ask again."}, 503, {"Connection": "close"})


class Measured:
    """The app, each of its requests timed by its route and status."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), None

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        except (
            asyncio.CancelledError
        ):  # the server stops, and its patience has ended before the request has
            if status is None:
                await STOPPING(scope, receive, note)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            REQUEST_SECONDS.labels(path, status or 500).observe(time.perf_counter() - began)


def exposition() -> bytes:
    """All figures in Prometheus' text form."""
    if (folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR")) is None:
        return generate_latest(REGISTRY)
    for path in Path(folder).glob("gauge_live*.db"):
        if not is_alive(pid := int(path.stem.rpartition("_")[2])):
            multiprocess.mark_process_dead(pid)
    collected = CollectorRegistry()
    multiprocess.MultiProcessCollector(collected)
    return generate_latest(collected)
