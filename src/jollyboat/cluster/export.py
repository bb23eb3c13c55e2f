"""The project's flows as a scheduler's files, compiled by Metaflow, and its server's manifests."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from jollyboat.cluster import FLOWS
from jollyboat.cluster.server import server_manifests
from jollyboat.store import PROJECT, UserError, suggest, write_text
from jollyboat.store.bucket import Bucket
from jollyboat.store.limits import CLUSTER, QUESTION
from jollyboat.store.remote import remote_address
from jollyboat.store.session import metaflow_address
from jollyboat.store.settings import Cluster, Settings

INSTALL = ".venv/bin/uv pip install --require-hashes -r requirements-cluster.txt"
# What each container gets of the environment of the export. Credentials are secrets.
PASSED = ("STORE_REMOTE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION")
ARGO_EVENTS = {  # the names in Metaflow's own set-up of Argo Events
    "METAFLOW_ARGO_EVENTS_EVENT": "metaflow-event",
    "METAFLOW_ARGO_EVENTS_EVENT_SOURCE": "argo-events-webhook",
    "METAFLOW_ARGO_EVENTS_SERVICE_ACCOUNT": "operate-workflow-sa",
    "METAFLOW_ARGO_EVENTS_WEBHOOK_URL": (
        "http://argo-events-webhook-eventsource-svc:12000/metaflow-event"
    ),
}


@dataclass(frozen=True)
class Scheduler:
    """Metaflow's command for a scheduler, the suffix of its files, and where steps run."""

    create: tuple[str, ...]
    suffix: str
    step: str = "kubernetes"
    can_tell_refusals: bool = False


SCHEDULERS = {
    "argo": Scheduler(
        # The log has the error, so no other container needs to report it.
        ("argo-workflows", "create", "--only-json", "--no-enable-error-msg-capture"),
        "yaml",
        can_tell_refusals=True,
    ),
    "airflow": Scheduler(("airflow", "create"), "py"),
    "step-functions": Scheduler(("step-functions", "create", "--only-json"), "json", "batch"),
}


def export(settings: Settings, name: str, folder: Path) -> list[Path]:
    """Write a file for each flow and question, and one for the server; returns their paths.

    `name` is one of SCHEDULERS. The flows' code packages go to the bucket. For Step Functions,
    Metaflow also registers a job definition for each step. Nothing else leaves this machine.
    Raises UserError where a setting, a package or the bucket is missing.
    """
    _check(settings, name)
    variables = _variables(settings.cluster)
    environment = _environment(settings, name)
    Bucket(environment["METAFLOW_DATASTORE_SYSROOT_S3"]).folders()  # Metaflow tries for ten minutes
    (folder / name).mkdir(parents=True, exist_ok=True)
    flows = [(flow, "") for flow in FLOWS]
    flows += [(flow, question) for question in [*settings.questions][1:] for flow in FLOWS[1:]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compile_one = partial(_compile, settings, name, folder / name, variables, environment)
        paths = list(pool.map(compile_one, *zip(*flows, strict=True)))
    server = folder / "server.yaml"
    write_text(server, _as_yaml(server_manifests(settings, variables)))
    return [*paths, server]


def _check(settings: Settings, name: str) -> None:
    if SCHEDULERS[name].step == "kubernetes" and not find_spec("kubernetes"):
        raise UserError(f"The package kubernetes is not installed. Install it: {INSTALL}")
    if not settings.cluster.image:
        raise UserError(
            "There is no image for the containers. Push the project's image, then name it: "
            'image = "registry.example.com/shop:1" under [cluster] in project.toml, or --image.'
        )
    for flow in settings.resources:
        if flow not in FLOWS:
            hint = suggest(flow, FLOWS) or f" There are {', '.join(FLOWS)}."
            raise UserError(f"[resources.{flow}] of project.toml: there is no such flow.{hint}")


def _variables(cluster: Cluster) -> dict[str, str]:
    """The environment variables that the flows' and the server's containers get."""
    missing = [name for name in cluster.environment if name not in os.environ]
    if missing:
        raise UserError(
            f"The variable {missing[0]} is not set here, and [cluster] environment of project.toml "
            f"names it. Set it: export {missing[0]}=..."
        )
    passed = [*(name for name in PASSED if os.environ.get(name)), *cluster.environment]
    return {name: os.environ[name] for name in passed}


def _environment(settings: Settings, name: str) -> dict[str, str]:
    """The environment of Metaflow's compilers; variables that are set already come first."""
    remote = remote_address()
    if not remote:
        raise UserError(
            "There is no bucket for the project's data, which a pod has nowhere else. Name it in "
            'project.toml: [store] remote = "s3://bucket/prefix"'
        )
    defaults = ARGO_EVENTS | {
        "METAFLOW_S3_RETRY_COUNT": "1",
        # Who may write to the bucket may deploy, and not only who deployed first.
        "METAFLOW_USER": settings.project.slug,
    }
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        defaults["METAFLOW_S3_ENDPOINT_URL"] = endpoint
    return (
        defaults
        | os.environ
        | {
            "JOLLYBOAT_PROJECT": str(PROJECT),
            CLUSTER: name,
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DATASTORE_SYSROOT_S3": metaflow_address(remote),
            "METAFLOW_KUBERNETES_NAMESPACE": settings.cluster.namespace,
        }
    )


def _options(cluster: Cluster, name: str, variables: Mapping[str, str]) -> list[str]:
    """Metaflow's options that decorate every step."""
    scheduler = SCHEDULERS[name]
    step = f"{scheduler.step}:image={cluster.image}"
    if scheduler.step == "kubernetes":
        # With limits DuckDB knows how much memory it has.
        step += f",qos=guaranteed,secrets={json.dumps(cluster.secrets)}"
    variables = {
        **variables,
        CLUSTER: name,
        "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1",  # the image has them
    }
    options = ["--with", step, "--with", f"environment:vars={json.dumps(variables)}"]
    if cluster.retries and scheduler.can_tell_refusals:
        options += ["--with", f"retry:times={cluster.retries},minutes_between_retries=1"]
    return options


def _script(settings: Settings, flow: str) -> str:
    """The file of a flow; DataFlow has another one in shards."""
    in_shards = flow == "data" and settings.cluster.data_shards > 1
    return f"flows/{'data_shards' if in_shards else flow}.py"


def _compile(
    settings: Settings,
    name: str,
    folder: Path,
    variables: Mapping[str, str],
    environment: Mapping[str, str],
    flow: str,
    question: str,
) -> Path:
    """Compile one flow in a process of its own, and write its file; "" is the first question."""
    scheduler, script = SCHEDULERS[name], _script(settings, flow)
    of_question = {QUESTION: question} if question else {}
    file_name = f"{flow}-{question}" if question else flow
    path = (folder / f"{file_name}.{scheduler.suffix}").absolute()
    options = _options(settings.cluster, name, {**variables, **of_question})
    create = [*scheduler.create, *([str(path)] if name == "airflow" else [])]
    command = [sys.executable, "-m", "jollyboat.flows.compile", script, *options]
    with TemporaryDirectory() as tokens:  # Metaflow has one file for all flows of a project
        compiled = subprocess.run(
            [*command, *create],
            cwd=PROJECT,
            env={**environment, **of_question, "METAFLOW_TOKEN_HOME": tokens},
            capture_output=True,
            text=True,
            check=False,
        )
    if compiled.returncode:
        reason = "\n".join(compiled.stderr.strip().splitlines()[-6:])
        raise UserError(f"Metaflow did not compile {script}. It says why:\n{reason}")
    if name == "argo":
        write_text(path, _as_yaml(json.loads(compiled.stdout)))
    elif name == "step-functions":
        write_text(path, compiled.stdout)
    return path


def _as_yaml(objects: list[dict]) -> str:
    """The objects as YAML documents, without the keys that have no value."""
    return yaml.safe_dump_all(map(_without_none, objects), sort_keys=False, allow_unicode=True)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value
