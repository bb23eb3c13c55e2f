"""A day of the simulated shop's visitors, who send requests to the project's server.

Run it in the project's folder with its Python. The visitors' whole sessions are raw logs for the
next data run, which joins predictions and outcomes.
"""

import gzip
import json
import os
import random
import socket
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

POINTS = [3, 4, 5, 6, 8, 10]
CLIENTS = 8


def main() -> None:
    began = time.monotonic()
    settings = tomllib.loads(Path("project.toml").read_text())["simulate"]
    days = settings["days"] + 1
    subprocess.run(
        [sys.executable, "-m", "jollyboat.cli", "simulate", "--days", str(days)], check=True
    )
    day = sorted(Path("data/raw/web").glob("dt=*"))[-1]
    bodies = list(requests(day / "events.jsonl.gz"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "jollyboat.cli", "serve"], env=os.environ | {"PORT": str(port)}
    )
    try:
        answers, milliseconds = send(f"http://127.0.0.1:{port}", bodies)
    finally:
        server.terminate()
        server.wait(timeout=30)
    alarms = sum(answer["decision"] is True for answer in answers)
    median = sorted(milliseconds)[len(milliseconds) // 2]
    print(
        f"traffic: {len(answers):,} visitors of {day.name.removeprefix('dt=')} sent requests, "
        f"{alarms:,} answers are above the threshold; median {median:.0f} ms; "
        f"{time.monotonic() - began:.1f} s"
    )


def requests(log: Path) -> Iterator[dict]:
    """A request for each session that reaches its point; points do not depend on lengths."""
    sessions = defaultdict(list)
    for line in gzip.decompress(log.read_bytes()).decode().splitlines():
        try:
            event = json.loads(line)
            sessions[event["shop"], event["session"]["id"]].append(canonical(event))
        except (ValueError, KeyError):
            continue  # a cut line, or an app that sends no session
    draw = random.Random(7)
    for (tenant, _), events in sorted(sessions.items()):
        point = draw.choice(POINTS)
        if len(events) >= point:
            in_order = sorted(events, key=lambda event: event["occurred_at"])
            yield {"tenant_id": tenant, "events": in_order[:point]}


def canonical(event: dict) -> dict:
    """The event in the form that POST /predict takes."""
    context, product = event["context"], event.get("product", {})
    fields = {
        "event_id": event["event"]["id"],
        "event_type": event["event"]["type"],
        "occurred_at": event["event"]["ts"],
        "session_id": event["session"]["id"],
        **event["visitor"],
        "product_id": product.get("id"),
        **{name: product.get(name) for name in ("category", "price", "quantity", "currency")},
        "query": event.get("search", {}).get("query"),
        "page": context["page"]["name"],
        "url": context["page"]["url"],
        "referrer": context["page"].get("referrer"),
        "channel": context.get("channel") or context.get("utm_medium"),
        "device": context["device"]["type"],
        "country": context["country"],
        "payload": {"product": product} if product else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def send(address: str, bodies: list[dict]) -> tuple[list[dict], list[float]]:
    """The answers, and the milliseconds of each."""
    with (
        httpx.Client(base_url=address, timeout=30) as client,
        ThreadPoolExecutor(CLIENTS) as visitors,
    ):
        wait_until_ready(client, time.monotonic() + 60)

        def predict(body: dict) -> tuple[dict, float]:
            began = time.perf_counter()
            answer = client.post("/predict", json=body).raise_for_status().json()
            return answer, (time.perf_counter() - began) * 1_000

        results = list(visitors.map(predict, bodies))
    return [answer for answer, _ in results], [milliseconds for _, milliseconds in results]


def wait_until_ready(client: httpx.Client, deadline: float) -> None:
    while True:
        try:
            client.get("/ready").raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
