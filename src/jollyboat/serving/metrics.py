"""Metrics for Prometheus; several workers share theirs in the folder PROMETHEUS_MULTIPROC_DIR."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

SECONDS = [ms / 1_000 for ms in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000)]
TENTHS = [n / 10 for n in range(1, 10)]
REQUEST_SECONDS = Histogram(
    "request_seconds", "Seconds per request", ["path", "status"], buckets=SECONDS
)
SCORE = Histogram("prediction_score", "Probabilities", ["champion", "variant"], buckets=TENTHS)
PREDICTIONS = Counter("predictions", "Answers", ["champion", "model_version", "variant"])
WARNED = Counter("predictions_with_warnings", "Answers with warnings", ["champion"])
MODELS_REFUSED = Gauge(
    "models_refused", "Newer bundles that are not used, see /ready", multiprocess_mode="livemax"
)
LOG_LINES = Counter("prediction_log_lines", "Answers written to the log")
LOG_LOST = Counter("prediction_log_lost", "Answers that could not be written to the log")
LOG_LAG_SECONDS = Gauge(
    "prediction_log_lag_seconds", "Age of what has not landed", multiprocess_mode="livemax"
)
STOPPING = JSONResponse({"detail": "The server stops; ask again."}, 503, {"Connection": "close"})


class RequestMetrics:
    """Middleware that records the seconds of each request by its route and status."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), None

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        except asyncio.CancelledError:
            # The server stops, and timeout_graceful_shutdown has passed.
            if status is None:
                await STOPPING(scope, receive, send_and_note_status)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            REQUEST_SECONDS.labels(path, status or 500).observe(time.perf_counter() - began)


def record_answer(answer: Mapping[str, Any], question: str) -> None:
    """Count an answer and its probability, if it has one; "" is the first question."""
    prefix, variant = f"{question}/" if question else "", answer["variant"]
    champion = prefix + answer["champion"]
    if answer.get("probability") is not None:
        SCORE.labels(champion, variant).observe(answer["probability"])
    PREDICTIONS.labels(champion, answer["model_version"], variant).inc()
    if "warnings" in answer:
        WARNED.labels(champion).inc()


def format_metrics() -> bytes:
    """All metrics of all workers in Prometheus' text form."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return generate_latest(REGISTRY)
    for path in Path(folder).glob("gauge_live*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not is_alive(pid):
            multiprocess.mark_process_dead(pid)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)
