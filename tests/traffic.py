"""Clients of a generated project's server, which send the sessions of a snapshot."""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
from runs import JOLLYBOAT

import demo
from jollyboat.snapshots import snapshot
from jollyboat.store import Store

JSON = {"Content-Type": "application/json"}
UNSENT = {"tenant_id", "entity_id", "point_at", "event_number", "source"}


@dataclass
class Server:
    """The server of a project over a store, on a free port of 127.0.0.1."""

    process: subprocess.Popen
    port: int

    def call(self, path: str, body: object = None, timeout: float = 30) -> tuple[int, dict]:
        """The status and the JSON of one request; a POST where there is a body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request(
            "POST" if body is not None else "GET", path, body and json.dumps(body), JSON
        )
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())

    def workers(self) -> list[int]:
        """The processes that answer."""
        children = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        )
        return [
            int(pid)
            for pid in children
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]


@dataclass
class Load:
    """The answers to clients in their order, refusals and broken connections."""

    answers: list[dict] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@contextmanager
def serving(
    project: Path, store: Path, before: tuple[str, ...] = (), **environment: str
) -> Iterator[Server]:
    """A ready server; at the end it must stop when it is terminated."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = (store.parent / f"server-{port}.txt").open("w+")
    process = subprocess.Popen(
        [*before, project / ".venv/bin/python", *JOLLYBOAT, "serve"],
        cwd=project,
        env=demo.environment() | {"STORE_ROOT": str(store), "PORT": str(port)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    server = Server(process, port)
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        if process.poll() is None:
            process.kill()
            raise AssertionError(
                f"the server did not stop: {(store.parent / f'server-{port}.txt').read_text()}"
            )


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            status, _ = server.call("/ready")
            if status == 200:
                return
        assert server.process.poll() is None, "the server ended"
        time.sleep(0.05)
    raise AssertionError("the server was not ready in time")


@contextmanager
def load(server: Server, bodies: list[dict], clients: int = 4) -> Iterator[Load]:
    """Clients that send requests until the block ends, and open a broken connection again."""
    results, is_over = Load(), threading.Event()

    def ask(first: int) -> None:
        connection, number = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30), first
        while not is_over.is_set():
            body, number = json.dumps(bodies[number % len(bodies)]), number + clients
            try:
                connection.request("POST", "/predict", body, JSON)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                results.broken.append(repr(error))
                connection.close()
                time.sleep(0.02)
                continue
            if response.status == 200:
                results.answers.append(json.loads(text))
            else:
                results.refused.append((response.status, text.decode()))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def sessions(store: Path, count: int) -> list[dict]:
    """Bodies for POST /predict: events of the newest snapshot's sessions at their points."""
    newest = snapshot.open_latest(Store(store))
    events, features = newest.scan("events_at_point"), newest.scan("session_features")
    with duckdb.connect() as connection:
        connection.execute(
            f"with e as (from {events}), "
            f"chosen as (select tenant_id, entity_id from {features} as f "
            "where status in ('train', 'open') order by md5(entity_id) limit ?) "
            "select * replace (cast(price as double) as price, "
            "strftime(occurred_at, '%Y-%m-%dT%H:%M:%S.%fZ') as "
            "occurred_at, strftime(received_at, '%Y-%m-%dT%H:%M:%S.%fZ') as received_at) "
            "from e semi join chosen using (tenant_id, entity_id) "
            "order by tenant_id, entity_id, event_number",
            [count],
        )
        names = [name for name, *_ in connection.description]
        rows = [dict(zip(names, values, strict=True)) for values in connection.fetchall()]
    bodies: dict[tuple, dict] = {}
    for row in rows:
        key = row["tenant_id"], row["entity_id"]
        body = bodies.setdefault(key, {"tenant_id": key[0], "session_id": key[1], "events": []})
        body["events"].append(
            {name: value for name, value in row.items() if value is not None and name not in UNSENT}
        )
    return list(bodies.values())


def logged(store: Path) -> list[dict]:
    """The lines of the prediction log that have landed."""
    files = sorted(store.glob("raw/predictions/dt=*/*.jsonl"))
    return [
        json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()
    ]
