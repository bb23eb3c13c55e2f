"""Machines that share nothing but a bucket go on where another one stopped, and none spoils another's work."""

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from runs import JOLLYBOAT, copy_project, read_guide, refusal, run, start, take, type_in
from s3_server import client, held, names_in, s3_server
from searching import files_with
from traffic import load, serving, sessions

import demo

pytestmark = pytest.mark.cluster

SALT = "a secret of the platform"
GUIDES = demo.HERE / "docs/how-to"
LOGS = ".venv/bin/jollyboat simulate --days 8 --sessions-per-day 1000"


@pytest.fixture(scope="module")
def server():
    with s3_server() as variables:
        client(variables).create_bucket(Bucket="boat")
        client(variables).put_bucket_versioning(
            Bucket="boat", VersioningConfiguration={"Status": "Enabled"}
        )
        yield variables


@pytest.fixture
def remote(server, monkeypatch) -> str:
    """The address of an empty prefix, which every process that this test starts uses."""
    prefix = uuid.uuid4().hex[:8]
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STORE_REMOTE", f"s3://boat/{prefix}")
    monkeypatch.setenv("PERSONAL_SALT", SALT)
    return prefix


@pytest.fixture
def logs(built, tmp_path) -> Path:
    """A machine that has raw logs and nothing else."""
    shutil.copytree(built / "raw", tmp_path / "first" / "raw")
    return tmp_path / "first"


def ok(project, store, *command) -> str:
    result = run(project, store, *command)
    assert result.returncode == 0, result.stdout
    return result.stdout


def latest(store) -> str:
    return json.loads((store / "snapshots/latest.json").read_text())["snapshot"]


def test_every_verb_goes_on_where_another_machine_stopped(
    untouched, logs, tmp_path, server, remote
):
    machines = [tmp_path / f"machine-{number}" for number in range(5)]

    ok(untouched, logs, "flows/data.py", "run")
    ok(untouched, machines[0], "flows/train.py", "run")
    ok(untouched, machines[1], "flows/deploy.py", "run")
    ok(untouched, machines[2], "flows/score.py", "run")
    again = ok(untouched, machines[3], "flows/data.py", "run")
    status = ok(untouched, logs, *JOLLYBOAT, "status")
    version = json.loads((machines[1] / "models/shared/champion.json").read_text())["version"]
    with serving(untouched, machines[4]) as one:
        body = sessions(machines[2], 1)[0]
        answers = [one.call("/predict", body) for _ in range(3)]

    assert (
        f"snapshot {latest(logs)} is still the latest, nothing is new; 0 new files"
        in demo.unwrap(again)
    )
    assert "there 0" not in status and "nobody publishes" in demo.unwrap(status)
    assert not (machines[0] / "raw").exists() and not (machines[0] / "staged").exists()
    assert not list(machines[4].glob("tables/events")) and list(machines[4].glob("tables/lookup_*"))
    assert {(200, version)} == {(status, answer["model_version"]) for status, answer in answers}
    # The server was terminated: its log has landed, and went up.
    (log,) = (each for each in names_in(server, "boat", f"{remote}/raw/predictions/"))
    content = client(server).get_object(Bucket="boat", Key=log)["Body"].read().decode()
    assert 3 == len(content.splitlines())
    assert "predictions" in ok(untouched, machines[3], "flows/data.py", "run")


def test_a_rolling_restart_loses_no_answer(untouched, copied, tmp_path, server, remote):
    ok(untouched, copied, "flows/data.py", "run")
    bodies = sessions(copied, 50)
    old, new = tmp_path / "old", tmp_path / "new"

    with serving(untouched, old) as before, load(before, bodies) as first:
        time.sleep(1)
        with serving(untouched, new) as after, load(after, bodies) as second:
            before.process.terminate()
            before.process.wait(30)
            time.sleep(1)
    heard = [answer["request_id"] for answer in (*first.answers, *second.answers)]
    lines = [
        json.loads(line)
        for name in names_in(server, "boat", f"{remote}/raw/predictions/")
        for line in client(server).get_object(Bucket="boat", Key=name)["Body"].iter_lines()
    ]

    assert len(first.answers) > 50 and len(second.answers) > 50
    assert not [*first.refused, *second.refused, *second.broken]
    logged = [line["request_id"] for line in lines]
    assert len(logged) == len(set(logged))
    assert set(heard) <= set(logged)


def test_of_two_data_runs_one_publishes_and_the_other_hears_who(untouched, logs, tmp_path, remote):
    other = Path(shutil.copytree(logs, tmp_path / "second"))
    both = [start(untouched, store, "flows/data.py", "run") for store in (logs, other)]
    outputs = [process.communicate()[0] for process in both]

    results = [
        subprocess.CompletedProcess("", process.returncode, output)
        for process, output in zip(both, outputs, strict=True)
    ]
    assert [0, 1] == sorted(result.returncode for result in results), outputs
    loser = max(results, key=lambda result: result.returncode)
    assert "has been writing since" in refusal(loser)
    # It lost nothing, and the same command finds all done.
    store = (logs, other)[results.index(loser)]
    assert "nothing is new" in demo.unwrap(ok(untouched, store, "flows/data.py", "run"))


def test_a_data_run_killed_between_files_and_pointer_is_finished_by_another_machine(
    untouched, logs, tmp_path, server, remote, monkeypatch
):
    pointer = f"PUT /boat/{remote}/snapshots/latest.json"
    with held(server, pointer.encode()) as (variables, came), monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", variables["AWS_ENDPOINT_URL"])
        process = start(untouched, logs, "flows/data.py", "run")
        assert came.wait(120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert names_in(server, "boat", f"{remote}/tables/")
    assert f"{remote}/snapshots/latest.json" not in names_in(server, "boat", f"{remote}/snapshots/")

    other = tmp_path / "second"
    ok(untouched, other, "flows/data.py", "run")
    ok(untouched, logs, "flows/data.py", "run")

    whole = tmp_path / "whole"
    shutil.copytree(logs / "raw", whole / "raw")
    monkeypatch.setenv("STORE_REMOTE", "")
    ok(untouched, whole, "flows/data.py", "run")
    assert {latest(whole)} == {latest(other), latest(logs)}


def test_an_erasure_on_another_machine_leaves_nothing_in_the_bucket(
    untouched, logs, tmp_path, server, remote, monkeypatch
):
    path = logs / "raw/web/dt=2026-01-08/somebody.jsonl"
    event = {"id": "e-somebody", "type": "page_view", "ts": "2026-01-07T10:00:00Z"}
    visitor = {"anonymous_id": "device-of-somebody", "user_id": "account-of-somebody"}
    path.write_text(json.dumps({"event": event, "shop": "acme", "visitor": visitor}) + "\n")
    ok(untouched, logs, "flows/data.py", "run")
    monkeypatch.setenv("METAFLOW_DEFAULT_DATASTORE", "s3")  # as tasks on a cluster
    for flow in ("train", "deploy", "score"):
        ok(untouched, logs, f"flows/{flow}.py", "run")
    monkeypatch.delenv("METAFLOW_DEFAULT_DATASTORE")
    ids = {"device-of-somebody", "account-of-somebody", "e-somebody"}
    assert files_with(ids, fetched(server, remote, tmp_path / "before"))

    other = tmp_path / "second"
    ok(untouched, other, "flows/data.py", "run")
    report = ok(
        untouched,
        other,
        *JOLLYBOAT,
        "erase",
        "--person",
        "account-of-somebody",
        "--linked",
        "erase",
    )

    assert "old versions" in report and "removed: 1 record" in report
    assert set() == files_with(ids, fetched(server, remote, tmp_path / "after"))
    assert set() == files_with(ids, other)
    # The first machine follows, and nothing that is gone comes back.
    ok(untouched, logs, "flows/data.py", "run")
    assert "" == path.read_text()
    assert set() == files_with(ids, fetched(server, remote, tmp_path / "later"))


def fetched(server, prefix: str, folder: Path) -> Path:
    """Every version of every object, as files that `search` decodes."""
    pages = (
        client(server).get_paginator("list_object_versions").paginate(Bucket="boat", Prefix=prefix)
    )
    versions = [each for page in pages for each in page.get("Versions", [])]
    for number, each in enumerate(versions):
        path = folder / str(number) / Path(each["Key"]).name
        path.parent.mkdir(parents=True)
        about = {"Bucket": "boat", "Key": each["Key"], "VersionId": each["VersionId"]}
        path.write_bytes(client(server).get_object(**about)["Body"].read())
    assert versions
    return folder


def test_the_guide_to_a_bucket_is_followed(project, tmp_path, server, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    own = copy_project(project, tmp_path / "shop")
    assert type_in(own, LOGS).returncode == 0
    printed = []
    for step in read_guide(GUIDES / "share-data-in-a-bucket.md"):
        if step.kind == "sh":
            text = " && ".join(step.text.splitlines())
            if "PERSONAL_SALT" in text:
                salt = (own / "data/.salt").read_text().strip()
                text = text.replace("the-salt-of-the-first-machine", salt)
                shutil.move(own / "data", tmp_path / "first machine")
            result = type_in(own, text)
            assert result.returncode == 0, result.stdout
            printed.append(demo.unwrap(result.stdout))
        else:
            take(step, own)

    first, second = printed
    assert "s3://boat/shop: all that is there is here; nobody publishes" in first
    assert "is now the champion of shared" in second
    assert not (own / "data/raw").exists()
    assert "shop/models/shared/champion.json" in names_in(server, "boat", "shop/models/")
