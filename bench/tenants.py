"""The same sessions of 6, 60 and 600 tenants: seconds on the clock, CPU seconds and peak memory, as a Markdown table.

build/demo/.venv/bin/python bench/tenants.py                                  6, 60 and 600 tenants
build/demo/.venv/bin/python bench/tenants.py 60 --sessions-per-day 3000 --days 30
    [--parts data models server]

The server answers as many tenants with a model of their own as there are tenants.
"""

import argparse
import gzip
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from measure import PROJECT, measure, simulate

ONE_TENANT = "shop-0002"  # its day arrives in a file of its own
SOURCES = ("web", "orders")
PARTS = ("data", "models", "server")
PORT, CLIENTS, SECONDS = 8124, 8, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tenants", type=int, nargs="*", default=[6, 60, 600])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--sessions-per-day", type=int, default=1000)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    print("| tenants | run | new lines | s | CPU s | peak MB |\n|---:|---|---:|---:|---:|---:|")
    for count in options.tenants:
        with tempfile.TemporaryDirectory(dir=PROJECT.parent) as folder:
            store = Path(folder)
            for row in measure_data(store, count, options.days, options.sessions_per_day):
                print_row(count, *row)
            if {"models", "server"} & set(options.parts):
                for row in measure_models(store):
                    print_row(count, *row)
            if "server" in options.parts:
                for figure in measure_server(store, count):
                    print(f"| {count:,} | {figure} |||||", flush=True)


def measure_data(
    store: Path, tenants: int, days: int, sessions_per_day: int
) -> Iterator[tuple[str, int, dict]]:
    """The full data run, one after a tenant's new day, and one without new files.

    The full run reads all days but the last, of which only one tenant's web events arrive later.
    """
    simulate(store, days + 1, sessions_per_day, "--tenants", str(tenants))
    last_day = sorted(store.glob("raw/web/dt=*"))[-1].name
    (store / "later").mkdir()
    for source in SOURCES:
        shutil.move(store / "raw" / source / last_day, store / "later" / source)
    lines = sum(len(read_lines(path)) for path in store.glob("raw/web/*/*.gz"))
    yield "full data run", lines, measure(store, "flows/data.py", "run")
    (arrived,) = (store / "later/web").glob("*.gz")
    new = [line for line in read_lines(arrived) if f'"shop":"{ONE_TENANT}"'.encode() in line]
    (store / "raw/web" / last_day).mkdir()
    file = store / "raw/web" / last_day / f"{ONE_TENANT}.jsonl.gz"
    file.write_bytes(gzip.compress(b"".join(new)))
    yield f"one day of {ONE_TENANT} alone", len(new), measure(store, "flows/data.py", "run")
    yield "no new file", 0, measure(store, "flows/data.py", "run")


def measure_models(store: Path) -> Iterator[tuple[str, int, dict]]:
    """Training with comparison, deployment with the gate, scores of all, monitoring of all."""
    for flow in ("train", "deploy", "score", "monitor"):
        used = measure(store, f"flows/{flow}.py", "run")
        yield flow, 0, used
        if flow == "deploy":
            print("".join(f"{line}\n" for line in used["said"].splitlines() if "tenants:" in line))
    runs = read_runs(store)
    print(f"average precision on all holdouts: {runs['average_precision']}, {runs['statuses']}")


def read_runs(store: Path) -> dict:
    run = json.loads((store / "runs/latest.json").read_text())["run"]
    return json.loads((store / "runs" / run / "metrics.json").read_text())["own_models"]


def measure_server(store: Path, count: int) -> Iterator[str]:
    """A server of `count` tenants with own models: start, memory, throughput beside one model."""
    request = promote_copies(store, count)
    environment = os.environ | {"STORE_ROOT": str(store)}
    command = [sys.executable, "-m", "uvicorn", "jollyboat.serving.app:app"]
    quiet = ["--port", str(PORT), "--log-level", "error", "--no-access-log"]
    began = time.perf_counter()
    server = subprocess.Popen([*command, *quiet], cwd=PROJECT, env=environment)
    try:
        while not is_ready():
            time.sleep(0.05)
        yield f"server ready after {time.perf_counter() - began:.1f} s"
        names = [f"copy-{number}" for number in range(count)]
        one = measure_throughput(request, ["nobody"])
        began = time.perf_counter()
        for name in names:
            send(connect(), request, name)
        per_model = (time.perf_counter() - began) / count
        yield f"first request of a tenant {1000 * per_model:.0f} ms"
        many = measure_throughput(request, names)
        yield f"{one:.0f} requests/s of one model, {many:.0f} of {count} ({many / one:.2f} times)"
        peak = Path(f"/proc/{server.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        yield f"memory {int(peak) / 1024:.0f} MB"
    finally:
        server.terminate()
        server.wait()


def promote_copies(store: Path, count: int) -> dict:
    """Give `count` made-up tenants the shared model as their own; returns a request for it."""
    os.environ["JOLLYBOAT_PROJECT"] = str(PROJECT)
    from jollyboat.champions import champion
    from jollyboat.serving import deployment_checks as checks
    from jollyboat.snapshots import snapshot
    from jollyboat.store import Store
    from jollyboat.training import run as runs

    one = Store(store)
    run, bundle = runs.open("", one), checks.open_bundle(one.bundle(*champion.current(one)))
    opened = snapshot.open(run.snapshot_id, one)
    parts = checks.parts_of(run, opened, bundle.lookups, {}, bundle.sample, "<html></html>")
    parts = replace(
        parts,
        threshold=bundle.threshold,
        first_point=bundle.first_point,
        outcome=bundle.outcome,
    )
    for number in range(count):
        owner = f"copy-{number}"
        version = checks.assemble(parts, one, owner).version
        champion.promote(one, owner, version, run=run.id, by="bench", why="a copy")
    return bundle.sample["request"]


def is_ready() -> bool:
    try:
        connection = connect()
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


def connect() -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)


def send(connection: http.client.HTTPConnection, request: dict, tenant: str) -> None:
    body = json.dumps({**request, "tenant_id": tenant})
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        sys.exit(f"The server answered {response.status}: {text[:500]!r}")


def measure_throughput(request: dict, tenants: list[str]) -> float:
    """Requests a second of eight clients that each draw a tenant for each request."""
    until = time.perf_counter() + SECONDS

    def ask(seed: int) -> int:
        connection, draw, count = connect(), random.Random(seed), 0
        while time.perf_counter() < until:
            send(connection, request, draw.choice(tenants))
            count += 1
        return count

    with ThreadPoolExecutor(CLIENTS) as clients:
        return sum(clients.map(ask, range(CLIENTS))) / SECONDS


def read_lines(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)


def print_row(tenants: int, run: str, lines: int, used: dict) -> None:
    print(
        f"| {tenants:,} | {run} | {lines:,} | {used['seconds']:.1f} | {used['cpu']:.1f} "
        f"| {used['peak']:,.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
