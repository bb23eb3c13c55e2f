"""A real server in its own process: a bundle's smoke test, and one request for `jollyboat ask`."""

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
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jollyboat.bundles.bundle import SHARED, open_bundle
from jollyboat.bundles.model import TOLERANCE
from jollyboat.champions.champion import current
from jollyboat.store import PROJECT, Store, UserError

ROUNDS = 3
START_SECONDS = 60


@dataclass
class Server:
    """A server on a free port of 127.0.0.1; `memory_mb` is its peak, set when it has stopped."""

    process: subprocess.Popen
    port: int
    output: BinaryIO
    start_seconds: float = 0.0
    memory_mb: float = 0.0

    def connect(self, timeout: float = 10) -> closing[http.client.HTTPConnection]:
        """A connection for the block."""
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout))

    def last_lines(self) -> str:
        """The end of what the server printed."""
        self.output.seek(0)
        text = self.output.read().decode(errors="replace").strip()
        if not text:
            return "It printed nothing."
        return "Its last lines: " + "\n".join(text.splitlines()[-10:])


def run_smoke_test(bundle_folder: Path, requests: int = 50) -> dict[str, Any]:
    """requests, start_seconds, p50_ms, p99_ms and memory_mb of a server that answers its sample.

    The milliseconds are those of the fastest of three rounds, the least disturbed one.
    UserError with the server's last lines where it does not start, or answers differently.
    """
    bundle = open_bundle(bundle_folder)
    path = f"/predict/{bundle.question['name']}" if bundle.question else "/predict"
    try:
        with running_server(bundle_folder) as server:
            rounds = [_measure(server, path, bundle.sample, requests) for _ in range(ROUNDS)]
    except UserError as error:
        raise UserError(f"The bundle at {bundle_folder} fails its smoke test: {error}") from error
    p50_ms, p99_ms = np.percentile(rounds, [50, 99], axis=1).min(axis=1).tolist()
    return {
        "requests": ROUNDS * requests,
        "start_seconds": round(server.start_seconds, 3),
        "p50_ms": round(p50_ms, 3),
        "p99_ms": round(p99_ms, 3),
        "memory_mb": round(server.memory_mb, 1),
    }


def send_sample(store: Store) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """The sample request of the question's shared champion, and its server's status and answer."""
    champion = current(store, SHARED)
    if champion is None:
        raise UserError("There is no champion to ask: `make deploy` makes one.")
    request = open_bundle(store.bundle(*champion)).sample["request"]
    path = f"/predict/{store.question}" if store.question else "/predict"
    with running_server() as server, server.connect() as connection:
        return request, *_call(connection, f"{path}?explain=true", json.dumps(request))


@contextmanager
def running_server(bundle_folder: Path | None = None) -> Iterator[Server]:
    """A ready server of one bundle, or of the store's champions, until the block ends.

    UserError with the server's last lines where it is not ready in time, or stops answering.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        server = _start(bundle_folder, output)
        try:
            _wait_until_ready(server, began + START_SECONDS)
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
    environment = os.environ | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WORKERS": "1",
        "SERVE_LOG": "0",
        "SERVE_PARENT": str(os.getpid()),
    }
    environment.pop("SERVE_TOKEN", None)
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
            with server.connect(timeout=5) as connection:
                status, response = _call(connection, "/ready")
        except OSError:
            time.sleep(0.05)
            continue
        if status == 200:
            return
        raise UserError(f"The server is not ready: {response['detail']}")
    raise UserError("The server was not ready in time.")


def _measure(server: Server, path: str, sample: dict[str, Any], requests: int) -> list[float]:
    """The milliseconds of each request over one connection, without the first, which warms up."""
    body, expected = json.dumps(sample["request"]), sample["answer"]
    latencies = []
    with server.connect() as connection:
        for _ in range(requests + 1):
            began = time.perf_counter()
            status, answer = _call(connection, path, body)
            latencies.append((time.perf_counter() - began) * 1_000)
            if status != 200 or not _is_same(answer, expected):
                received = json.dumps(answer)[:300]
                raise UserError(
                    f"The sample was answered with {status} {received}, expected was {expected}."
                )
    return latencies[1:]


def _is_same(answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    if "items" in expected:  # which items there are depends on the newest lookups
        return answer["status"] == expected["status"] and bool(answer["items"])
    if answer["probability"] is None:
        return False
    differs = abs(answer["probability"] - expected["probability"]) > TOLERANCE
    names = expected.keys() - {"probability"}
    return not differs and all(answer.get(name) == expected[name] for name in names)


def _call(
    connection: http.client.HTTPConnection, path: str, body: str | None = None
) -> tuple[int, dict]:
    """The status and JSON of a request; a POST where there is a body."""
    method = "GET" if body is None else "POST"
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def _stop(process: subprocess.Popen) -> float:
    """End the server and return its peak memory in megabytes."""
    if process.poll() is not None:
        return 0.0
    process.terminate()
    deadline = time.perf_counter() + 10
    # wait4, unlike Popen.wait, reports the resources of this one process.
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        if time.perf_counter() > deadline:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.01)
