"""A bundle's smoke test: the real server, in a process of its own, over that bundle and nothing else."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rails.bundle import open_bundle
from rails.errors import Refused
from rails.store import PROJECT
from serving.model import TOLERANCE


def smoke(bundle_folder: Path, requests: int = 50, patience_seconds: float = 30) -> dict[str, Any]:
    """Figures of a server that answers as it should: requests, start_seconds, p50_ms, p99_ms, memory_mb (its peak).

    Raises Refused with the server's last lines where it does not start, or answers otherwise.
    """
    sample = open_bundle(bundle_folder).sample
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        server, port = _start(Path(bundle_folder), output)
        try:
            _wait_until_ready(server, port, started + patience_seconds)
            start_seconds = time.perf_counter() - started
            latencies = _ask(port, sample, requests)
        except (Refused, OSError, http.client.HTTPException, ValueError, KeyError) as error:
            sentence = f"The bundle at {bundle_folder} fails its smoke test: {error} {_last_lines(output)}"
            raise Refused(sentence) from error
        finally:
            memory_mb = _stop(server)
    return {
        "requests": requests,
        "start_seconds": round(start_seconds, 3),
        "p50_ms": round(float(np.percentile(latencies, 50)), 3),
        "p99_ms": round(float(np.percentile(latencies, 99)), 3),
        "memory_mb": round(memory_mb, 1),
    }


def _start(bundle_folder: Path, output: Any) -> tuple[subprocess.Popen, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SERVE_BUNDLE": str(bundle_folder.absolute()), "HOST": "127.0.0.1", "PORT": str(port)}
    command = [sys.executable, "-m", "serving"]
    return subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT), port


def _wait_until_ready(server: subprocess.Popen, port: int, deadline: float) -> None:
    reply = "nothing"
    while time.perf_counter() < deadline:
        if server.poll() is not None:
            raise Refused(f"The server ended with exit code {server.returncode}.")
        try:
            status, reply = _call(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/ready")
        except OSError:
            time.sleep(0.05)
            continue
        if status == 200:
            return
        raise Refused(f"The server is not ready: {reply.get('detail', reply)}")
    raise Refused(f"The server was not ready in time; it said {reply}.")


def _ask(port: int, sample: dict[str, Any], requests: int) -> list[float]:
    """The milliseconds of each request over one connection; the first, which warms up, is not counted."""
    body = json.dumps(sample["request"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    latencies = []
    for _ in range(requests + 1):
        began = time.perf_counter()
        status, found = _call(connection, "POST", "/predict", body)
        latencies.append((time.perf_counter() - began) * 1_000)
        if status != 200 or not _same(found, sample["answer"]):
            told = json.dumps(found)[:300]
            raise Refused(f"The sample was answered with {status} {told}, expected was {sample['answer']}.")
    connection.close()
    return latencies[1:]


def _same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    near = abs(found["probability"] - expected["probability"]) <= TOLERANCE
    return near and all(found.get(name) == value for name, value in expected.items() if name != "probability")


def _call(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, dict]:
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def _stop(server: subprocess.Popen) -> float:
    """Ends the server; the most memory it held, in megabytes."""
    if server.poll() is not None:
        return 0.0
    server.terminate()
    deadline = time.perf_counter() + 10
    # Not Popen.wait: only wait4 tells what this one process used.
    while not (ended := os.wait4(server.pid, os.WNOHANG))[0]:
        if time.perf_counter() > deadline:
            os.kill(server.pid, signal.SIGKILL)
        time.sleep(0.01)
    server.returncode = os.waitstatus_to_exitcode(ended[1])
    return ended[2].ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def _last_lines(output: Any, lines: int = 10) -> str:
    output.seek(0)
    text = output.read().decode(errors="replace").strip()
    return "Its last lines: " + "\n".join(text.splitlines()[-lines:]) if text else "It printed nothing."
