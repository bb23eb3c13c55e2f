"""The demo project's server: speed, cost of its parts, failures; beside bare FastAPI and MLflow.

build/demo/.venv/bin/python bench/serving.py [--requests 100000] [--seconds 10] [--workers 1]
    [--parts ours others ...]

All runs on loopback over a copy of models and snapshot; clients have their own process.
MLflow is installed with uv into build/mlflow, or left out where that fails.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
EVENTS = 20
TURNS = 4
PARTS = ["ours", "others", "costs", "growth", "changes"]
ONLY_PREDICTS = """
import numpy, xgboost
from fastapi import FastAPI
from pydantic import BaseModel
app, booster = FastAPI(), xgboost.Booster({"nthread": 1}, model_file=MODEL)
class Row(BaseModel):
    features: list[float | None]
@app.post("/predict")
async def predict(row: Row) -> float:
    matrix = numpy.array([row.features], dtype=float)
    return float(booster.inplace_predict(matrix)[0])
"""
MLFLOW = """
import pathlib, sys
import mlflow, numpy, pandas
from jollyboat.training.persistence import load
class Trees(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.model = load(pathlib.Path(context.artifacts["model"]))
class Named(Trees):  # over columns by name, as our server does
    def predict(self, context, model_input):
        return self.model.predict_proba(model_input)
class Numbers(Trees):  # its trees alone over numbers by their place
    def predict(self, context, model_input):
        return self.model.predict_matrix(numpy.asarray(model_input, dtype=float))
artifacts = {"model": sys.argv[1]}
rows = pandas.read_json("rows.json", orient="split").convert_dtypes(dtype_backend="numpy_nullable")
numbers = rows.select_dtypes("number").columns
rows[numbers] = rows[numbers].astype(float)
signature = mlflow.models.infer_signature(rows, [0.5])
models = {"signed": (Named, signature), "named": (Named, None), "numbers": (Numbers, None)}
for name, (model, signed) in models.items():
    mlflow.pyfunc.save_model(
        name, python_model=model(), artifacts=artifacts, signature=signed,
        pip_requirements=[], code_paths=[sys.argv[2]],
    )
"""
SENT = {
    "numbers": "trees alone, numbers by place",
    "named": "the same model",
    "signed": "the same with a signature",
}


def main() -> None:
    """Measure and print, a line a figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", type=Path, default=HERE / "build/demo")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="others and costs need ours"
    )
    given = parser.parse_args()
    project = given.project.resolve()
    sys.path.insert(0, str(project))
    with tempfile.TemporaryDirectory() as folder:
        store = copy_store(given.store or project / "data", Path(folder) / "store")
        bodies, rows, model = sessions(store)
        if "ours" in given.parts:
            ours = ours_at_speed(project, store, bodies, given)
        if "others" in given.parts:
            with serving(project, store, WORKERS=given.workers) as (_, port):
                drive(port, "/predict", bodies, clients=8, seconds=2)
                beside_others(project, rows, model, (port, bodies), Path(folder), given)
        if "costs" in given.parts:
            cost_of_parts(store, bodies, ours)
        if "growth" in given.parts:
            growth(project, store, bodies, given)
        if "changes" in given.parts:
            changes_and_a_kill(project, store, bodies, given)


def ours_at_speed(
    project: Path, store: Path, bodies: list[bytes], given: argparse.Namespace
) -> dict[int, float]:
    """Requests a second with 8 and 32 clients, and latencies at half of that."""
    began = time.perf_counter()
    with serving(project, store, WORKERS=given.workers) as (_, port):
        print_figure("start to ready", f"{time.perf_counter() - began:.1f} s")
        drive(port, "/predict", bodies, clients=8, seconds=2)
        most = {}
        for clients in (8, 32):
            latencies, seconds = drive(port, "/predict", bodies, clients, given.seconds)
            most[clients] = len(latencies) / seconds
            print_figure(
                f"{EVENTS} raw events, log on, {clients} clients", speed(most[clients], latencies)
            )
        for clients, rate in most.items():
            latencies, _ = drive(port, "/predict", bodies, clients, given.seconds + 1, rate / 2)
            latencies = latencies[
                int(rate / 2) :
            ]  # the first second is also the clients' own start
            print_figure(
                f"half of that, as a fixed rate, {clients} clients", speed(rate / 2, latencies)
            )
    return most


def beside_others(
    project: Path,
    rows: Any,
    model: Path,
    ours: tuple[int, list[bytes]],
    folder: Path,
    given: argparse.Namespace,
) -> None:
    """The same model over ready-made features: its trees in a bare app, and whole in MLflow.

    Each is driven in turns with our server, because the machine's speed changes by the minute.
    """
    from jollyboat.training.schema import FeatureSchema

    numbers = FeatureSchema.from_dict(
        json.loads((model / "model.json").read_text())["schema"]
    ).matrix(rows)
    numbers = [[None if x != x else x for x in row] for row in numbers.tolist()]
    (folder / "ready.py").write_text(
        ONLY_PREDICTS.replace("MODEL)", f"{str(model / 'model.ubj')!r})")
    )
    port = free_port()
    bare = [
        sys.executable,
        "-m",
        "uvicorn",
        "ready:app",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    with process([*bare, "--workers", str(given.workers)], folder) as running:
        wait(port, "/openapi.json", running)
        sent = [json.dumps({"features": row}).encode() for row in numbers]
        compare("FastAPI, trees alone", port, "/predict", sent, ours, given)
    if not (mlflow := install_mlflow()):
        print_figure("mlflow models serve", "left out: uv could not install it")
        return
    text = rows.to_json(orient="split", index=False)
    (folder / "rows.json").write_text(text)
    script = [mlflow / "python", "-c", MLFLOW, str(model), str(HERE / "src/jollyboat")]
    subprocess.run(
        script,
        check=True,
        cwd=folder,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(HERE / "src")},
    )
    columns, values = (json.loads(text)[part] for part in ("columns", "data"))
    named = [
        json.dumps({"dataframe_split": {"columns": columns, "data": [row]}}).encode()
        for row in values
    ]
    placed = [
        json.dumps({"inputs": [[-1.0 if x is None else x for x in row]]}).encode()
        for row in numbers
    ]
    path = {"PATH": f"{mlflow}{os.pathsep}{os.environ['PATH']}"}
    for name, label in SENT.items():
        port = free_port()
        command = [
            mlflow / "mlflow",
            "models",
            "serve",
            "-m",
            name,
            "--env-manager",
            "local",
            "-p",
            str(port),
        ]
        with process([*command, "-w", str(given.workers)], folder, **path) as running:
            wait(port, "/ping", running)
            sent = placed if name == "numbers" else named
            compare(f"mlflow models serve, {label}", port, "/invocations", sent, ours, given)


def compare(
    name: str, port: int, path: str, sent: list[bytes], ours: tuple[int, list[bytes]], given
) -> None:
    drive(port, path, sent, 8, 2)
    for clients in (8, 32):
        all_latencies, rates = [], []
        for _ in range(TURNS):
            turn = []
            for address, target, bodies in ((ours[0], "/predict", ours[1]), (port, path, sent)):
                latencies, seconds = drive(address, target, bodies, clients, given.seconds / TURNS)
                turn.append(len(latencies) / seconds)
            all_latencies += latencies
            rates.append(turn)
        our_rate, rate = (sum(column) / TURNS for column in zip(*rates, strict=True))
        print_figure(
            f"{name}, {clients} clients",
            f"{speed(rate, sorted(all_latencies))}; ours beside it {our_rate:,.0f}, "
            f"{our_rate / rate:.2g} times that",
        )


def cost_of_parts(store: Path, bodies: list[bytes], ours: dict[int, float]) -> None:
    """Microseconds of log, metrics and validation, as a share of a request at the highest speed."""
    from jollyboat.landing.prediction_log import PredictionLog
    from jollyboat.serving import metrics
    from jollyboat.serving.schema import PredictRequest
    from jollyboat.store import Store

    request = 1e6 / max(ours.values())
    line = dict.fromkeys(
        ["request_id", "tenant_id", "entity_id", "anonymous_id", "champion"], "0123456789abcdef"
    )
    line |= {
        "answered_at": "2026-01-01T10:00:00.000000+00:00",
        "probability": 0.123456789,
        "features_hash": "0" * 32,
    }
    line |= {
        "decision": False,
        "threshold": 0.1,
        "event_count": 20,
        "point_at": "2026-01-01 10:00:00.000000Z",
    }
    line |= {"model_version": "0123456789ab", "variant": "champion", "latency_ms": 12.345}
    log = PredictionLog(Store(store))

    def measure() -> None:
        metrics.REQUEST_SECONDS.labels("/predict", 200).observe(0.01)
        metrics.SCORE.labels("shared", "champion").observe(0.1)
        metrics.PREDICTIONS.labels("shared", "0123456789ab", "champion").inc()

    parts: dict[str, Callable] = {
        "the log": lambda: log.append(line),
        "the metrics": measure,
        "validation": lambda: PredictRequest.model_validate_json(bodies[0]),
    }
    for name, part in parts.items():
        rounds = [timed(part, 2_000) for _ in range(5)]
        print_figure(
            f"cost of {name}", f"{min(rounds):.0f} µs, {min(rounds) / request:.1%} of a request"
        )


def timed(part: Callable, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        part()
    return (time.perf_counter() - began) / times * 1e6


def growth(project: Path, store: Path, bodies: list[bytes], given: argparse.Namespace) -> None:
    """Memory after a tenth of the requests, and after all."""
    with serving(project, store, WORKERS=1) as (server, port):
        drive(port, "/predict", bodies, 32, count=given.requests // 10)
        first = resident_mb(server.pid)
        drive(port, "/predict", bodies, 32, count=given.requests - given.requests // 10)
        last = resident_mb(server.pid)
    grown = f"{first:.0f} MB, after {given.requests:,} {last:.0f} MB ({last / first - 1:+.1%})"
    print_figure(f"memory after {given.requests // 10:,} requests", grown)


def changes_and_a_kill(
    project: Path, store: Path, bodies: list[bytes], given: argparse.Namespace
) -> None:
    """Two champions, a rollback and a killed worker under load: what failed, what is missing."""
    from jollyboat.champions import champion
    from jollyboat.landing.prediction_log import land_leftovers
    from jollyboat.store import Store, read_json

    kept, first = Store(store), champion.current(Store(store))[1]
    shutil.rmtree(store / "raw", ignore_errors=True)
    with serving(project, store, WORKERS=2) as (server, port), multiprocessing.Pool(1) as pool:
        driven = pool.apply_async(
            _drive, (port, "/predict", bodies, 32, None, None, given.requests)
        )
        for number, act in enumerate(("change", "change", "rollback", "kill")):
            time.sleep(given.requests / 12_000)  # all four while requests go on
            if act == "kill":
                os.kill(workers(server.pid)[0], signal.SIGKILL)
            else:
                version = first if act == "rollback" else copied_bundle(kept, first, number)
                pointer = read_json(kept.champion("shared"))
                draft = kept.champion("shared").with_suffix(".draft")
                draft.write_text(json.dumps(pointer | {"version": version}))
                draft.replace(kept.champion("shared"))
        latencies, _, ids, broken = driven.get()
    land_leftovers(kept)  # as the next start does
    files = list(kept.raw.glob("predictions/*/*.jsonl"))
    lines = [
        json.loads(line)["request_id"] for path in files for line in path.read_text().splitlines()
    ]
    missing = len(set(ids) - set(lines))
    answered = f"{len(latencies):,} answered, {broken} broke with their worker"
    print_figure(
        f"{given.requests:,} requests, 3 changes, 1 kill",
        f"{answered}, {missing} missing in the log, {len(lines) - len(set(lines))} there twice",
    )


def copied_bundle(store, version: str, number: int) -> str:
    """The champion's bundle under a version of its own."""
    from jollyboat.bundles import bundle

    draft = store.models / "shared" / f"draft-{number}"
    shutil.copytree(store.bundle("shared", version), draft)
    manifest = json.loads((draft / "manifest.json").read_text()) | {"run": f"bench-{number}"}
    manifest["version"] = bundle._version_of(manifest)
    (draft / "manifest.json").write_text(json.dumps(manifest))
    draft.rename(store.bundle("shared", manifest["version"]))
    return manifest["version"]


def drive(
    port, path, bodies, clients, seconds=None, rate=None, count=None
) -> tuple[list[float], float]:
    """Milliseconds of each answer, and all seconds; at full speed or a rate, for a time or count."""
    with multiprocessing.Pool(1) as pool:
        latencies, took, _, broken = pool.apply(
            _drive, (port, path, bodies, clients, seconds, rate, count)
        )
    if broken:
        sys.exit(f"{broken} requests to {path} failed")
    return latencies, took


def _drive(
    port, path, bodies, clients, seconds, rate, count
) -> tuple[list[float], float, list[str], int]:
    import uvloop

    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    load = Load(
        port,
        [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies],
        seconds,
        rate,
        count,
    )
    uvloop.run(load.run(clients))
    ids = [
        json.loads(answer).get("request_id") for answer in load.answers if b"request_id" in answer
    ]
    return load.latencies, load.took, ids, load.failed


class Load:
    """Clients that send raw requests and read answers: 35 to 70 µs of CPU a request."""

    def __init__(self, port: int, requests: list[bytes], seconds, rate, count):
        self.port, self.requests, self.rate, self.count = port, requests, rate, count
        self.seconds = seconds or float("inf")
        self.latencies, self.answers, self.sent_count, self.failed, self.took = [], [], 0, 0, 0.0

    async def run(self, clients: int) -> None:
        loop = asyncio.get_running_loop()
        self.began = time.monotonic() + clients * 0.01
        await asyncio.gather(*(self._ask_on(loop, client) for client in range(clients)))
        self.took = time.monotonic() - self.began

    async def _ask_on(self, loop: asyncio.AbstractEventLoop, client: int) -> None:
        await asyncio.sleep(
            client * 0.01
        )  # a worker that is woken takes all connections that wait, and keeps them
        while self.goes_on(time.monotonic()):
            try:
                _, client_protocol = await loop.create_connection(
                    lambda: Client(self, loop), "127.0.0.1", self.port
                )
                await client_protocol.ended
            except OSError:
                self.failed += 1
                await asyncio.sleep(0.05)

    def goes_on(self, now: float) -> bool:
        return (
            self.count is None or self.sent_count < self.count
        ) and now < self.began + self.seconds


class Client(asyncio.Protocol):
    """One client: the next request when the answer before it is there, and due."""

    def __init__(self, load: Load, loop: asyncio.AbstractEventLoop):
        self.load, self.loop, self.ended, self.received = load, loop, loop.create_future(), b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        # All ask at once, so that none waits for one that is not there yet.
        self.loop.call_later(self.load.began - time.monotonic(), self.ask)

    def ask(self) -> None:
        load, now = self.load, time.monotonic()
        if not load.goes_on(now):
            self.ended.set_result(None)
            self.transport.close()
            return
        load.sent_count, self.number = load.sent_count + 1, load.sent_count
        self.due = load.began + self.number / load.rate if load.rate else now
        self.loop.call_later(max(0, self.due - now), self.send)

    def send(self) -> None:
        self.transport.write(self.load.requests[self.number % len(self.load.requests)])

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, _, answer = self.received.partition(b"\r\n\r\n")
        if len(answer) < int(
            head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 1 << 30
        ):
            return
        if b" 200 " not in head[:20]:
            self.ended.set_exception(
                RuntimeError(f"a request was answered {self.received[:400]!r}")
            )
            return
        self.received = b""
        self.load.latencies.append((time.monotonic() - self.due) * 1_000)
        self.load.answers.append(answer)
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionResetError())


def sessions(store: Path) -> tuple[list[bytes], Any, Path]:
    """Bodies of twenty events each, the snapshot's ready-made features, and the model's folder."""
    from jollyboat.bundles.bundle import open_bundle
    from jollyboat.champions.champion import current
    from jollyboat.snapshots import snapshot
    from jollyboat.store import Store
    from jollyboat.training.schema import FeatureSchema

    opened, bundle = (
        snapshot.open_latest(Store(store)),
        open_bundle(Store(store).bundle(*current(Store(store)))),
    )
    if bundle.candidate != "xgboost":
        sys.exit(
            f"This needs an xgboost champion; the champion of {store} is {bundle.candidate}: "
            "choose another with --store."
        )
    rows = (
        opened.relation("session_features")
        .limit(300)
        .df()[FeatureSchema.from_dict(bundle.schema).names]
    )
    events = opened.relation("events").filter(f"event_number <= {EVENTS}").df()
    counts = events.groupby(["tenant_id", "session_id"])["event_id"].transform("count")
    names = [
        "event_id",
        "event_type",
        "anonymous_id",
        "user_id",
        "product_id",
        "category",
        "query",
        "page",
        "url",
    ]
    names += ["referrer", "channel", "device", "country", "payload"]
    bodies = []
    for (tenant, session), group in events[counts == EVENTS].groupby(["tenant_id", "session_id"]):
        sent = [
            {name: row[name] for name in names if isinstance(row[name], str)}
            | {"occurred_at": row["occurred_at"].isoformat() + "Z"}
            | (
                {"price": float(row["price"])}
                if row["price"] == row["price"] and row["price"] is not None
                else {}
            )
            for row in group.sort_values("event_number").to_dict("records")
        ]
        bodies.append(
            json.dumps({"tenant_id": tenant, "session_id": session, "events": sent}).encode()
        )
    return bodies[:300], rows, bundle.model


def copy_store(store: Path, into: Path) -> Path:
    for name in ("models", "snapshots", "tables"):
        shutil.copytree(store / name, into / name)
    return into


@contextmanager
def serving(
    project: Path, store: Path, **environment: object
) -> Iterator[tuple[subprocess.Popen, int]]:
    port = free_port()
    settings = {name: str(value) for name, value in environment.items()} | {
        "STORE_ROOT": str(store),
        "PORT": str(port),
    }
    with process([sys.executable, "-m", "jollyboat.cli", "serve"], project, **settings) as running:
        wait(port, "/ready", running)
        yield running, port


@contextmanager
def process(command: list, folder: Path, **environment: str) -> Iterator[subprocess.Popen]:
    with tempfile.TemporaryFile("w+") as output:
        running = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=output, stderr=output
        )
        try:
            yield running
        except BaseException:
            output.seek(0)
            print(output.read()[-2_000:], file=sys.stderr)
            raise
        finally:
            running.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.wait(20)
            running.kill()


def wait(port: int, path: str, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing answers {path}")


def install_mlflow() -> Path | None:
    folder, uv = HERE / "build/mlflow", Path(sys.executable).with_name("uv")
    if not (folder / "bin/mlflow").exists():
        packages = ["mlflow", "xgboost-cpu==3.2.0"]
        try:
            subprocess.run(
                [uv, "venv", "-q", "--clear", "--python", sys.executable, folder], check=True
            )
            subprocess.run(
                [uv, "pip", "install", "-q", "--python", folder / "bin/python", *packages],
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def workers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


def speed(rate: float, latencies: list[float]) -> str:
    ordered = sorted(latencies)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return f"{rate:,.0f} a second, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def print_figure(name: str, figure: str) -> None:
    print(f"{name:<46} {figure}", flush=True)


if __name__ == "__main__":
    main()
