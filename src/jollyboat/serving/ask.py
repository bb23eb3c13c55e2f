"""The real server in a process of its own: a bundle's smoke test, and one request for `jollyboat ask`."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jollyboat.bundles.bundle import SHARED, open_bundle
from jollyboat.bundles.model import TOLERANCE
from jollyboat.champions.champion import current
from jollyboat.store import PROJECT, Store
from jollyboat.store.errors import UserError

ROUNDS = 3


@dataclass
class Server:
    """A server on a free port of 127.0.0.1. `memory_mb` is its peak, known once it has stopped."""

    process: subprocess.Popen
    port: int
    output: BinaryIO
    start_seconds: float = 0.0
    memory_mb: float = 0.0

    def call(
        self, method: str, path: str, body: str | None = None, timeout: float = 10
    ) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of one request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            return _call(connection, method, path, body)
        finally:
            connection.close()

    def last_lines(self, lines: int = 10) -> str:
        """The end of what the server printed."""
        self.output.seek(0)
        text = self.output.read().decode(errors="replace").strip()
        return (
            "Its last lines: " + "\n".join(text.splitlines()[-lines:])
            if text
            else "It printed nothing."
        )


def smoke(bundle_folder: Path, requests: int = 50, patience_seconds: float = 60) -> dict[str, Any]:
    """Figures of a server that answers as it should: requests, start_seconds, p50_ms, p99_ms, memory_mb (its peak).

    The milliseconds are those of the quietest of three rounds, for what else the machine does only adds to them.
    Raises UserError with the server's last lines where it does not start, or answers otherwise.
    """
    sample = open_bundle(bundle_folder).sample
    try:
        with running_server(bundle_folder, patience_seconds) as server:
            rounds = [_ask(server, sample, requests) for _ in range(ROUNDS)]
    except UserError as error:
        raise UserError(f"The bundle at {bundle_folder} fails its smoke test: {error}") from error
    return {
        "requests": ROUNDS * requests,
        "start_seconds": round(server.start_seconds, 3),
        "p50_ms": round(min(float(np.percentile(latencies, 50)) for latencies in rounds), 3),
        "p99_ms": round(min(float(np.percentile(latencies, 99)) for latencies in rounds), 3),
        "memory_mb": round(server.memory_mb, 1),
    }


def ask(store: Store) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """One request to the shared champion's server: the request, the status and the answer."""
    champion = current(store, SHARED)
    if champion is None:
        raise UserError("There is no champion to ask: `make deploy` makes one.")
    request = open_bundle(store.bundle(*champion)).sample["request"]
    with running_server() as server:
        return request, *server.call("POST", "/predict?explain=true", json.dumps(request))


@contextmanager
def running_server(
    bundle_folder: Path | None = None, patience_seconds: float = 60
) -> Iterator[Server]:
    """A server that is ready, over one bundle, or over the store's champions; it is stopped at the end.

    Raises UserError with the server's last lines where it does not become ready, or stops answering.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        server = _start(bundle_folder, output)
        try:
            _wait_until_ready(server, began + patience_seconds)
            server.start_seconds = time.perf_counter() - began
            yield server
        except (UserError, OSError, http.client.HTTPException) as error:
            raise UserError(f"{error} {server.last_lines()}") from error
        finally:
            server.memory_mb = _stop(server.process)


def _start(bundle_folder: Path | None, output: BinaryIO) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WORKERS": "1",
        "SERVE_LOG": "0",
        "SERVE_PARENT": str(os.getpid()),
    }
    environment = {name: value for name, value in os.environ.items() if name != "SERVE_TOKEN"} | own
    if bundle_folder:
        environment["SERVE_BUNDLE"] = str(Path(bundle_folder).absolute())
    command = [sys.executable, "-m", "jollyboat.cli", "serve"]
    process = subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT
    )
    return Server(process, port, output)


def _wait_until_ready(server: Server, deadline: float) -> None:
    while time.perf_counter() < deadline:
        if server.process.poll() is not None:
            raise UserError(f"The server ended with exit code {server.process.returncode}.")
        try:
            status, reply = server.call("GET", "/ready", timeout=5)
        except OSError:
            time.sleep(0.05)
            continue
        if status == 200:
            return
        raise UserError(f"The server is not ready: {reply['detail']}")
    raise UserError("The server was not ready in time.")


def _ask(server: Server, sample: dict[str, Any], requests: int) -> list[float]:
    """The milliseconds of each request over one connection; the first, which warms up, is not counted."""
    body = json.dumps(sample["request"])
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    latencies = []
    for _ in range(requests + 1):
        began = time.perf_counter()
        status, found = _call(connection, "POST", "/predict", body)
        latencies.append((time.perf_counter() - began) * 1_000)
        if status != 200 or not _same(found, sample["answer"]):
            told = json.dumps(found)[:300]
            raise UserError(
                f"The sample was answered with {status} {told}, expected was {sample['answer']}."
            )
    connection.close()
    return latencies[1:]


def _same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    near = abs(found["probability"] - expected["probability"]) <= TOLERANCE
    return near and all(
        found.get(name) == value for name, value in expected.items() if name != "probability"
    )


def _call(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None
) -> tuple[int, dict]:
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def _stop(process: subprocess.Popen) -> float:
    """Ends the server; the most memory it held, in megabytes."""
    if process.poll() is not None:
        return 0.0
    process.terminate()
    deadline = time.perf_counter() + 10
    # Not Popen.wait: only wait4 tells what this one process used.
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        if time.perf_counter() > deadline:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    return ended[2].ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
