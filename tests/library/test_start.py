"""The start page shows the project's state, and names each file that cannot be read."""

import json

import pytest
from fastapi.testclient import TestClient

from jollyboat.cli.project import format_state, next_step
from jollyboat.serving.app import app
from jollyboat.serving.overview import write_overview
from jollyboat.serving.project_state import read_state
from jollyboat.store import Store, write_json

AT = "2026-01-01T10:00:00+00:00"
COUNT = {"rows": 3}
CHECK = {
    "name": "quality",
    "subject": "quality",
    "tenant": "all",
    "state": "fine",
    "sentence": "As it was.",
}
FIGURE = {"value": 0.3, "low": None, "high": None}
FILES = {  # with the command that writes it
    "models/experiment.json": (
        {
            "salt": "s",
            "share": 0.5,
            "owner": "shared",
            "version": "v2",
            "champion": "v1",
            "since": AT,
        },
        "jollyboat experiment stop",
    ),
    "models/shared/champion.json": (
        {
            "version": "v1",
            "history": [{"version": "v1", "at": AT, "kind": "promotion", "why": "a test"}],
        },
        "make deploy",
    ),
    "runs/r1/run.json": ({"run": "r1", "chosen": "baseline", "finished_at": AT}, "make train"),
    "runs/r1/metrics.json": (
        {
            "chosen": "baseline",
            "candidates": {"baseline": {"holdout": {"average_precision": FIGURE}}},
        },
        "make train",
    ),
    "snapshots/latest.json": ({"snapshot": "s1"}, "make data"),
    "snapshots/s1/manifest.json": (
        {
            "id": "s1",
            "published_at": AT,
            "tables": dict.fromkeys(("events", "quarantined_events", "sessions"), COUNT),
        },
        "make data",
    ),
    "monitor/latest.json": (
        {"at": AT, "checks": [CHECK], "retraining": {"reason": "None."}},
        "make monitor",
    ),
    "reports/experiment.json": (
        {"version": "v2", "sentence": "No difference is sure yet."},
        "jollyboat experiment read",
    ),
}
BROKEN = (
    "{brok",
    "",
    "\udcff",
    "null",
    "[]",
    "{}",
    '"str"',
    "5",
    '{"history": [], "checks": [5], "at": 1}',
)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("STORE_ROOT", str(tmp_path))
    for name, (value, _) in FILES.items():
        write_json(tmp_path / name, value)
    return Store(tmp_path)


def test_what_the_files_hold_is_shown(store):
    finding = {"table": "events", "expectation": "there are events", "severity": "critical"}
    write_json(store.failed_rows, [finding])

    with TestClient(app) as client:
        page = client.get("/").text

    for text in (
        "1 Jan 2026, 10:00",
        "0.300",
        "serves 50",
        "No difference is sure yet.",
        "As it was.",
        "a test",
        "events: there are events",
    ):
        assert text in page
    assert read_state(store)["troubles"] == {}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(store, name):
    file, command = store.root / name, FILES[name][1]
    whole = file.read_text()

    with TestClient(app) as client:
        for text in BROKEN:
            file.write_bytes(text.encode(errors="surrogateescape"))
            client.portal.call(app.state.champions.refresh)
            response = client.get("/")
            assert response.status_code == 200, text
            assert (
                response.text.count(str(file)) == 1 and f"<code>{command}</code>" in response.text
            ), text
        file.write_text(whole)


@pytest.mark.parametrize("name", FILES)
def test_no_value_of_a_file_takes_the_page_down(store, name):
    value = FILES[name][0]

    with TestClient(app) as client:
        for junk in (None, 5, "x", [], {}, 1e300, "0001-01-01T00:00:00+14:00"):
            for broken in _each_replaced(value, junk):
                (store.root / name).write_text(json.dumps(broken))
                assert client.get("/").status_code == 200, broken


def _each_replaced(value, junk):
    """The value with each thing in it, at any depth, replaced in turn."""
    yield junk
    for key, part in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        for broken in _each_replaced(part, junk):
            copy = value.copy()
            copy[key] = broken
            yield copy


def test_a_label_that_holds_something_else_harms_nobody(store):
    labels = store.raw / "labels/dt=2026-01-01"
    labels.mkdir(parents=True)
    judgement = dict.fromkeys(
        ("tenant_id", "entity_id", "judgement_id", "judged_at", "judgement"), "x"
    )
    lines = [
        judgement,
        *({**judgement, name: junk} for name in judgement for junk in (5, None, [1])),
        {**judgement, "undoes": [1]},
    ]
    (labels / "junk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    with TestClient(app) as client:
        assert "2 judgements" in client.get("/").text


def test_an_overview_that_cannot_be_written_is_no_error_of_the_command(store):
    write_overview(store, "Overview")
    assert "The model is deployed and healthy" in store.overview.read_text()
    store.overview.unlink()
    store.overview.mkdir()

    write_overview(store, "Overview")

    assert store.overview.is_dir()


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", '{"chosen": "x"}'])
def test_a_run_that_cannot_be_read_leaves_the_overview_and_is_named_there(tmp_path, text):
    folder = tmp_path / "runs" / "r1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"finished_at": "2026-01-01T00:00:00", "chosen": "x"}')
    (folder / "metrics.json").write_text(text)

    write_overview(Store(tmp_path), "Shop")

    assert "runs/r1/metrics.json" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("changed", "command"),
    [
        ({}, "make score"),
        ({"refused_model": {"failed": ["latency"]}}, "what the gate's page names"),
        ({"data": {"held": ["acme"]}}, "the tenants that are held back"),
        ({"monitor": {"checks": [{"state": "fine"}]}}, "make score"),
        ({"monitor": {"checks": [{"state": "alarm"}]}}, "what to do about each alarm"),
    ],
)
def test_status_says_what_the_state_of_a_live_project_asks_for(tmp_path, changed, command):
    live = {"refused": [], "data": {"held": []}, "runs": [1], "champions": {"shared": [1]}}
    parts = live | {"experiment": None, "refused_model": None, "monitor": None} | changed

    assert command in next_step(parts, Store(tmp_path))


def test_status_names_an_erasure_that_is_not_finished(tmp_path):
    store = Store(tmp_path)
    write_json(store.erasing, {})

    assert (
        "type the same jollyboat erase again"
        in dict(format_state(read_state(store), store))["erasure"]
    )
