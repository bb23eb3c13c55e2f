"""What was compiled for Argo runs on pods that share nothing but the bucket: data, train, deploy, score, monitor."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from argo import Workflow
from runs import type_in
from s3_server import client, names_in, s3_server

import demo

pytestmark = pytest.mark.cluster

FLOWS = ("data", "train", "deploy", "score", "monitor")
EVICTED = {"data": ("start",), "train": ("fit",), "deploy": ("start",), "score": ("start",)}
# Of a data run in shards; its other steps end sooner.
EVICTED_SHARDS = ("read", "build-events", "find-data-end", "build-tables", "publish")
SETTINGS = """
[store]
remote = "s3://boat/{prefix}"

[cluster]
image = "registry.example.com/shop:1"
shards = 3
data_shards = {data_shards}
"""


@pytest.fixture(scope="module")
def server():
    with s3_server() as variables:
        client(variables).create_bucket(Bucket="boat")
        yield variables


@pytest.fixture(scope="module")
def events():
    """Argo's webhook: the events that flows send when they end."""
    received = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body)["payload"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as webhook:
        threading.Thread(target=webhook.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{webhook.server_address[1]}/event", received
        webhook.shutdown()


@pytest.fixture(scope="module")
def templates(template, server, events, tmp_path_factory) -> dict[str, list[dict]]:
    """The objects of each flow, whose data run is one pod's."""
    return export(template, server, events[0], tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def templates_with_shards(template, server, events, tmp_path_factory) -> dict[str, list[dict]]:
    """The same flows over the same logs elsewhere, with a data run in three shards."""
    return export(template, server, events[0], tmp_path_factory.mktemp("shards"), "sharded", 3)


def export(
    template, server, webhook: str, folder, prefix: str = "shop", data_shards: int = 1
) -> dict[str, list[dict]]:
    """The flows as `jollyboat cluster export` writes them, for logs that lie in the bucket."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", folder, template]
    subprocess.run(command, env=os.environ | {"HOME": str(folder)}, check=True)
    project = folder / "shop_intent"
    (project / ".venv").symlink_to(sys.prefix)
    if data_shards > 1:  # they share several portions of files
        sql_settings = project / "dbt/dbt_project.yml"
        text = sql_settings.read_text()
        sql_settings.write_text(text.replace("lines_at_once: 1000000", "lines_at_once: 20000"))
    settings = SETTINGS.format(prefix=prefix, data_shards=data_shards)
    path = project / "project.toml"
    path.write_text(path.read_text().replace("[simulate]", f"{settings}\n[simulate]"))
    train = project / "flows/train.py"  # so few rows would be one shard
    train.write_text(train.read_text().replace("FEW_ROWS = 50_000", "FEW_ROWS = 0"))
    variables = server | {"METAFLOW_ARGO_EVENTS_WEBHOOK_URL": webhook}
    result = type_in(project, ".venv/bin/jollyboat cluster export", **variables)
    assert result.returncode == 0, result.stdout
    logs = type_in(project, ".venv/bin/jollyboat simulate --days 8 --sessions-per-day 1000")
    assert logs.returncode == 0, logs.stdout
    for raw in (project / "data/raw").rglob("*.*"):
        name = f"{prefix}/{raw.relative_to(project / 'data')}"
        client(server).upload_file(str(raw), "boat", name)
    shutil.rmtree(project / "data")
    return {
        flow: list(yaml.safe_load_all((project / f"cluster/argo/{flow}.yaml").read_text()))
        for flow in FLOWS
    }


@pytest.fixture(scope="module")
def run_flow(templates, secrets, tmp_path_factory):
    """A function that runs one compiled flow to its end."""

    def run(flow: str, evicted: tuple[str, ...] = ()) -> Workflow:
        return Workflow(templates[flow][0], tmp_path_factory.mktemp(flow), secrets, evicted).run()

    return run


@pytest.fixture(scope="module")
def secrets(server) -> dict[str, str]:
    """What the cluster's secrets add to each container."""
    secrets = {name: server[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return secrets | {"PERSONAL_SALT": "a secret of the platform"}


@pytest.fixture(scope="module")
def chain(run_flow) -> dict[str, Workflow]:
    """Each flow in the order in which they start one another."""
    return {flow: run_flow(flow, evicted=EVICTED.get(flow, ())) for flow in FLOWS}


def test_each_flow_ends_well_though_pods_share_nothing_but_the_bucket_and_some_are_evicted(chain):
    for flow, workflow in chain.items():
        assert workflow.failed is None, f"{flow} {workflow.failed.step}: {workflow.failed.text}"
    assert "snapshot" in chain["data"].text() and "published" in chain["data"].text()
    assert "is now the champion of shared" in demo.unwrap(chain["deploy"].text())


def test_a_training_run_has_several_shards_at_once(chain):
    shards = [task.shard for task in chain["train"].tasks if task.step == "fit"]

    assert {str(number) for number in range(len(shards))} == set(shards)
    assert len(shards) > 1


def test_the_end_of_a_flow_is_the_event_that_starts_the_next(chain, events, templates):
    sent = {payload["name"] for payload in events[1]}

    for flow in FLOWS[1:]:
        (dependency,) = templates[flow][1]["spec"]["dependencies"]
        expression = dependency["filters"]["exprs"][0]["expr"]
        assert expression.split("'")[1] in sent


def test_every_verbs_results_are_in_the_bucket_and_the_salt_is_not(chain, server):
    names = {name.removeprefix("shop/") for name in names_in(server, "boat", "shop/")}
    parts = {name.partition("/")[0] for name in names}

    assert {"raw", "staged", "tables", "snapshots", "runs", "models", "scores", "monitor"} <= parts
    assert "models/shared/champion.json" in names
    assert not [name for name in names if "salt" in name or name.endswith(".duckdb")]


def run_on_one_machine(server, prefix: str, project, store) -> dict:
    """Build the logs of the bucket on this machine; returns the snapshot's manifest."""
    for name in names_in(server, "boat", f"{prefix}/raw/"):
        path = store / name.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client(server).download_file("boat", name, str(path))
    environment = {"STORE_ROOT": str(store), "PERSONAL_SALT": "a secret of the platform"}
    result = type_in(project, ".venv/bin/python flows/data.py run", **environment)
    assert result.returncode == 0, result.stdout
    (path,) = store.glob("snapshots/*/manifest.json")
    return json.loads(path.read_text())


def published(server, prefix: str) -> dict:
    """The manifest of the latest snapshot in the bucket."""

    def read(name: str) -> dict:
        answer = client(server).get_object(Bucket="boat", Key=f"{prefix}/snapshots/{name}")
        return json.loads(answer["Body"].read())

    return read(f"{read('latest.json')['snapshot']}/manifest.json")


def test_the_snapshot_is_that_of_one_machine(chain, server, tmp_path, project):
    one = run_on_one_machine(server, "shop", project, tmp_path / "store")

    assert one["id"] == published(server, "shop")["id"]


def test_a_second_data_run_finds_nothing_new_and_reads_no_raw_line(chain, run_flow):
    again = run_flow("data")

    assert again.failed is None, again.failed.text
    assert "is still the latest, nothing is new; 0 new files" in demo.unwrap(again.text())


def test_a_refused_deployment_ends_well_so_that_scores_and_monitor_follow(chain, run_flow, server):
    running = {"Bucket": "boat", "Key": "shop/models/experiment.json"}
    client(server).put_object(**running, Body=b"{}")

    refused = run_flow("deploy")

    client(server).delete_object(**running)
    assert refused.failed is None, refused.failed.text
    assert "An experiment runs" in demo.unwrap(refused.text())
    assert ["start", "end"] == [
        task.step for task in refused.tasks if task.step in ("start", "end")
    ]


@pytest.fixture(scope="module")
def in_shards(templates_with_shards, secrets, tmp_path_factory) -> Workflow:
    """A data run in shards, of which each step that works for long is evicted once."""
    (template, *_), folder = templates_with_shards["data"], tmp_path_factory.mktemp("in_shards")
    return Workflow(template, folder, secrets, EVICTED_SHARDS).run()


def test_a_data_run_in_shards_publishes_the_tables_of_one_machine(
    in_shards, server, tmp_path, project
):
    assert in_shards.failed is None, f"{in_shards.failed.step}: {in_shards.failed.text}"

    one = run_on_one_machine(server, "sharded", project, tmp_path / "store")
    assert one["tables"] == published(server, "sharded")["tables"]
    assert all(one["tables"][name]["rows"] for name in ("events", "session_features"))


def test_each_shard_of_files_and_of_tenants_has_work(in_shards, server):
    steps = [task.step for task in in_shards.tasks]
    built = [
        name.split("/")[3]
        for name in names_in(server, "boat", "sharded/shards/")
        if name.endswith("/events.parquet")
    ]
    portions = names_in(server, "boat", "sharded/staged/web-")

    assert {"read": 3, "build-events": 3, "build-tables": 3, "publish": 1} == {
        step: steps.count(step) for step in ("read", "build-events", "build-tables", "publish")
    }
    assert ["events-0", "events-1", "events-2"] == sorted(built)
    assert len(list(portions)) > 3


def test_a_second_run_in_shards_finds_nothing_new(
    in_shards, templates_with_shards, secrets, tmp_path
):
    again = Workflow(templates_with_shards["data"][0], tmp_path, secrets).run()

    assert again.failed is None, again.failed.text
    assert "is still the latest, nothing is new; 0 new files" in demo.unwrap(again.text())
