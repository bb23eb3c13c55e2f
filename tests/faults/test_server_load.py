"""The real server: what it computes, what it bears, and what changes below it while clients ask."""

import gzip
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from runs import run
from traffic import kill, load, logged, serving, sessions

import demo

pytestmark = pytest.mark.faults
IN_PROJECT = Path(__file__).parent.parent / "in_project"


@pytest.fixture(scope="module")
def server(untouched, built, tmp_path_factory):
    store = Path(shutil.copytree(built, tmp_path_factory.mktemp("served") / "store"))
    with serving(untouched, store) as server:
        yield server


@pytest.fixture(scope="module")
def body(built) -> dict:
    return sessions(built, 1)[0]


# What it computes


def test_a_thousand_sessions_have_the_snapshots_features_and_scores_online(untouched, copied):
    add_late_events(copied)
    result = run(untouched, copied, "flows/data.py", "run")
    assert result.returncode == 0, result.stdout

    result = run(untouched, copied, str(IN_PROJECT / "online.py"))
    report = json.loads(result.stdout.splitlines()[-1])

    assert (
        report["sessions"] >= 1_000
        and report["days"] >= 5
        and report["late"] >= 20
        and report["log_ins_midway"] >= 5
    )
    differing = {name: count for name, count in report.items() if "differing" in name}
    assert differing.pop("features_differing_changed") > 0
    assert set(differing.values()) == {0}, report


def add_late_events(store: Path) -> None:
    """An event of a type nobody knows in the middle of some sessions, and that arrives days after them."""
    days = sorted((store / "raw/web").iterdir())
    (log,) = days[2].iterdir()
    text = gzip.decompress(log.read_bytes()) if log.suffix == ".gz" else log.read_bytes()
    lines = []
    for line in text.splitlines()[:400]:
        with suppress(ValueError):  # some are broken, as logs are
            lines.append(json.loads(line))
    late = [
        {**one, "event": {"id": f"late-{number}", "type": "hologram", "ts": one["event"]["ts"]}}
        for number, one in enumerate(lines[::5])
        if isinstance(one.get("event"), dict) and one["event"].get("ts")
    ]
    (days[-1] / "late.jsonl").write_text("".join(json.dumps(one) + "\n" for one in late))


def test_batch_scores_are_the_servers(untouched, copied):
    script = (
        "import json, sys; from jollyboat.snapshots import snapshot; "
        "frame = __import__('duckdb').sql(f\"from '{sys.argv[1]}/scores/*/scores.parquet'\").df(); "
        "print(json.dumps({f'{t} {e}': p for t, e, p in zip(frame.tenant_id, frame.entity_id, frame.probability)}))"
    )
    result = run(untouched, copied, "-c", script, str(copied))
    scored = json.loads(result.stdout.splitlines()[-1])
    requested = [
        one for one in sessions(copied, 400) if f"{one['tenant_id']} {one['session_id']}" in scored
    ]

    with serving(untouched, copied) as server:
        _, report = server.call("/predict/batch", {"sessions": requested})

    assert len(report["answers"]) > 200
    for answer in report["answers"]:
        offline = scored[f"{answer['tenant_id']} {answer['entity_id']}"]
        assert abs(answer["probability"] - offline) <= 1e-9, answer


# What it bears


def test_nothing_that_the_schema_allows_or_forbids_is_the_servers_fault(
    untouched, server, tmp_path
):
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"http://127.0.0.1:{server.port}/openapi.json",
    ]
    checks = ["--checks", "not_a_server_error,response_schema_conformance,content_type_conformance"]

    result = subprocess.run(
        [*command, *checks, "--max-examples", "60", "--seed", "7", "--generation-deterministic"],
        cwd=untouched,
        env=demo.environment() | {"HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    assert result.returncode == 0, result.stdout[-4_000:]


AN_EVENT = b'{"tenant_id": "acme", "events": [{"occurred_at": "2026-01-01T00:00:00Z", %s}]}'
HOSTILE = {
    "nothing": b"",
    "a list": b"[]",
    "deep nesting": b'{"tenant_id": "acme", "events": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "twenty megabytes": b'{"tenant_id": "' + b"a" * 20_000_000 + b'"}',
    "a number that is none": AN_EVENT % b'"event_type": "a", "price": NaN',
    "SQL": b'{"tenant_id": "acme; drop table requests", "events": []}',
    "wrong types": b'{"tenant_id": 1, "events": {"event_type": 2}}',
    "half a surrogate pair": AN_EVENT % b'"event_type": "\\ud800"',
    "ten thousand events": json.dumps(
        {
            "tenant_id": "acme",
            "events": [{"event_type": "a", "occurred_at": "2026-01-01T00:00:00Z"}] * 10_000,
        }
    ).encode(),
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_hostile_body_is_refused(server, path, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(sent)}\r\n\r\n".encode()
            + sent
        )
        status = int(client.recv(100).split()[1])

    assert status in (413, 422)


def test_slow_and_half_open_clients_do_not_keep_the_others_waiting(server, body):
    starts = [
        b"",
        b"POST /predict HTTP/1.1\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{",
    ]
    hanging = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(90)]
    for number, client in enumerate(hanging):
        client.sendall(starts[number % 3])

    began = time.monotonic()
    statuses = {server.call("/predict", body)[0] for _ in range(20)}
    seconds = time.monotonic() - began
    for client in hanging:
        client.close()

    assert statuses == {200}
    assert seconds < 5


def test_connections_that_never_end_their_headers_lock_others_out_for_seconds_only(
    untouched, copied, body
):
    with serving(untouched, copied, before=("prlimit", "--nofile=100")) as server:
        hanging = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(120)]
        for client in hanging:
            client.sendall(b"POST /predict HTTP/1.1\r\n")
        deadline, status = time.monotonic() + 20, None
        while status != 200 and time.monotonic() < deadline:
            with suppress(OSError):
                status, _ = server.call("/predict", body)
            time.sleep(0.2)
        for client in hanging:
            client.close()

    assert status == 200


def test_what_was_sent_is_in_no_line_of_the_server(untouched, copied, body):
    secret, events = "ada@example.com", body["events"]
    bodies = [
        {"tenant_id": "acme", "events": [{"event_type": "a", "occurred_at": secret}]},
        {
            **body,
            "session_id": secret,
            "events": [{**each, "user_id": secret, "price": secret} for each in body["events"]],
        },
        {**body, "session_id": secret, "events": [{**each, "user_id": secret} for each in events]},
        {"tenant_id": secret, "events": events},
    ]

    with serving(untouched, copied, SERVE_TOKEN="token-of-ours") as server:
        refused = server.call("/predict", body)
    with serving(untouched, copied) as server:
        answers = [server.call("/predict", each) for each in bodies]
    result = "".join(path.read_text() for path in copied.parent.glob("server-*.txt"))

    assert refused[0] == 401
    assert [status for status, _ in answers] == [422, 422, 200, 422]
    assert secret not in result and "token-of-ours" not in result
    assert not [
        report for status, report in answers if status == 422 and secret in json.dumps(report)
    ]


# What changes below it


def test_champions_change_under_load_within_two_seconds_and_no_request_fails(untouched, copied):
    bodies, champion = sessions(copied, 100), copied / "models/shared/champion.json"
    first = json.loads(champion.read_text())
    second = copy_of_the_champion(untouched, copied)
    broken = copied / "models/shared/broken"

    with (
        serving(untouched, copied, WORKERS="2") as server,
        load(server, bodies, clients=6) as heard,
    ):
        time.sleep(1)
        for version in (second, first["version"], second):
            point(champion, first, version)
            time.sleep(2)
            settled = len(heard.answers)
            time.sleep(0.5)
            assert {answer["model_version"] for answer in heard.answers[settled + 6 :]} == {version}
        shutil.copytree(copied / "models/shared" / second, broken)
        (broken / "features.sql").write_text("select 1")
        point(champion, first, "broken")
        time.sleep(2)
        ready = server.call("/ready")
        settled = len(heard.answers)
        time.sleep(0.5)
        assert {answer["model_version"] for answer in heard.answers[settled:]} == {second}

    assert (heard.refused, heard.broken) == ([], [])
    assert ready[0] == 200 and "features.sql" in ready[1]["refused"][0]
    assert "features.sql" in "".join(
        path.read_text() for path in copied.parent.glob("server-*.txt")
    )
    assert len(heard.answers) == len({line["request_id"] for line in logged(copied)})


def copy_of_the_champion(project: Path, store: Path) -> str:
    """The champion's bundle with another threshold, under the version that it then has."""
    script = (
        "import json, pathlib, sys; from jollyboat.bundles import bundle; folder = pathlib.Path(sys.argv[1]); "
        "manifest = json.loads((folder / 'manifest.json').read_text()); manifest['threshold'] = 0.5; "
        "manifest['version'] = bundle._version_of(manifest); "
        "(folder / 'manifest.json').write_text(json.dumps(manifest)); "
        "folder.rename(folder.with_name(manifest['version'])); print(manifest['version'])"
    )
    shared = store / "models/shared"
    version = json.loads((shared / "champion.json").read_text())["version"]
    shutil.copytree(shared / version, shared / "draft")
    result = run(project, store, "-c", script, str(shared / "draft"))
    assert result.returncode == 0, result.stdout
    return result.stdout.split()[-1]


def point(champion: Path, pointer: dict, version: str) -> None:
    draft = champion.with_name(".draft.json")
    draft.write_text(json.dumps(pointer | {"version": version}))
    draft.replace(champion)


def test_a_server_that_is_told_to_stop_finishes_what_it_has(untouched, copied):
    bodies = sessions(copied, 50)

    with serving(untouched, copied) as server, load(server, bodies, clients=8) as heard:
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)

    lines = [line["request_id"] for line in logged(copied)]
    assert len(heard.answers) > 50 and not heard.refused
    assert Counter(answer["request_id"] for answer in heard.answers) == Counter(lines)


def test_workers_end_with_the_process_that_started_them(untouched, copied):
    with serving(untouched, copied, WORKERS="2") as server:
        workers = server.workers()
        kill(server.process.pid)
        gone = wait_for_the_end(workers)

    assert len(workers) == 2 and gone


def test_a_killed_deployment_leaves_no_server(untouched, copied):
    shutil.rmtree(copied / "models")
    flow = subprocess.Popen(
        [untouched / ".venv/bin/python", "flows/deploy.py", "run"],
        cwd=untouched,
        env=demo.environment() | {"STORE_ROOT": str(copied)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline, servers = time.monotonic() + 60, []
    while time.monotonic() < deadline and not servers:
        servers = [pid for pid in processes() if serves(pid, copied)]
        time.sleep(0.02)
    parent = int(Path(f"/proc/{servers[0]}/stat").read_text().rpartition(")")[2].split()[1])
    kill(parent)
    flow.wait(60)

    assert wait_for_the_end(servers)


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def serves(pid: int, store: Path) -> bool:
    try:
        command, around = (
            Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")
        )
    except OSError:
        return False
    return b"-m\0jollyboat.cli\0serve\0" in command and f"STORE_ROOT={store}\0".encode() in around


def wait_for_the_end(pids: list[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(is_running(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
