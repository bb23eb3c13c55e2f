"""Compiles a flow for a cluster: `python -m jollyboat.flows.compile flows/data.py OPTIONS`.

It is `python flows/data.py OPTIONS`. For Argo, Metaflow prints the WorkflowTemplate alone; this
prints a list of it and of what starts it.
"""

import json
import os
import runpy
import sys

from metaflow.plugins.argo.argo_workflows import ArgoWorkflows

from jollyboat.flows.cluster import REFUSED
from jollyboat.store import UserError

# A refusal stays one. A pod that was lost has no exit code, and is tried again.
RETRY = f"lastRetry.exitCode != '{REFUSED}'"
NO_TOKEN = "__PLACEHOLDER_PRODUCTION_TOKEN__"  # Metaflow's, where it asks no cluster


def objects_of(flow: ArgoWorkflows) -> list[dict]:
    """The flow's WorkflowTemplate, and the CronWorkflow or the Sensor that starts it.

    Metaflow's namespace of the runs is `production:` and the project's slug.
    """
    template = _read(flow, flow._workflow_template)
    for each in template["spec"]["templates"]:
        if "retryStrategy" in each:
            each["retryStrategy"]["expression"] = RETRY
    objects = [template]
    if flow._schedule:
        objects.append(_cron_workflow(template["metadata"], flow._schedule))
    if flow._sensor:
        objects.append(_read(flow, flow._sensor))
    return objects


def _read(flow: ArgoWorkflows, part: object) -> dict:
    (project,) = flow.flow._flow_decorators["project"]
    return json.loads(str(part).replace(NO_TOKEN, project.attributes["name"]))


def _cron_workflow(metadata: dict, schedule: str) -> dict:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "CronWorkflow",
        "metadata": {key: metadata[key] for key in ("name", "namespace", "labels")},
        "spec": {
            "schedules": [schedule],
            "timezone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "workflowSpec": {"workflowTemplateRef": {"name": metadata["name"]}},
        },
    }


def main(script: str, *options: str) -> None:
    """Run the flow's file with these options, as Python would."""
    ArgoWorkflows.__str__ = lambda flow: json.dumps(objects_of(flow))
    sys.argv, sys.path[0] = [script, *options], os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except UserError as refusal:
        sys.exit(str(refusal))


if __name__ == "__main__":
    main(*sys.argv[1:])
