"""What a flow gets on a cluster beside its steps: the project's name, its start, and resources."""

import os
from typing import Any

from metaflow import FlowMutator, project, resources, schedule, trigger_on_finish

from jollyboat.cluster import FLOWS
from jollyboat.store import UserError, suggest
from jollyboat.store.limits import CLUSTER, QUESTION
from jollyboat.store.settings import Settings, StepResources, check

CHAIN = [f"{name.capitalize()}Flow" for name in FLOWS]
REFUSED = 202  # Metaflow's own exit code of a task that is not to be tried again

# A build takes most memory in one step, training in two. The others need less than the default.
RESOURCES = {
    "data": dict.fromkeys(
        ("start", "read", "build_events", "build_tables", "publish"),
        StepResources(cpu=2, memory_gb=8),
    ),
    "train": {
        "fit": StepResources(cpu=2, memory_gb=8),
        "compare": StepResources(cpu=2, memory_gb=8),
    },
}


class PlacedOnCluster(FlowMutator):
    """Adds a cluster's decorators to a flow that is compiled for one, or is a task there.

    On one machine it does nothing.
    """

    def pre_mutate(self, mutable_flow: Any) -> None:
        """Add them from the settings, before Metaflow reads the decorators."""
        cluster = os.environ.get(CLUSTER)
        if not cluster:
            return
        settings = check(dict(mutable_flow.configs)["project"].to_dict())
        name, steps = mutable_flow._flow_cls.__name__, dict(mutable_flow.steps)
        for decorator, arguments in _decorators(name, settings, cluster):
            mutable_flow.add_decorator(decorator, deco_kwargs=arguments)
        for step, needs in _needs(name, settings, list(steps)).items():
            arguments = {
                "cpu": needs.cpu,
                "memory": round(needs.memory_gb * 1024),
                "disk": round(needs.disk_gb * 1024),
            }
            steps[step].add_decorator(resources, deco_kwargs=arguments)


def _decorators(name: str, settings: Settings, cluster: str) -> list[tuple[Any, dict]]:
    """The flow's decorators with their arguments.

    The first flow of the chain starts by the clock, each other one when the one before has ended.
    In Airflow all have the schedule, because a sensor waits for the run of the same moment there.
    Step Functions know no such start. Each further question is a branch of the project: its
    TrainFlow starts after the one DataFlow, which is of no branch.
    """
    slug, cron = settings.project.slug, {"cron": settings.cluster.schedule}
    question = os.environ.get(QUESTION)
    of_question = {"branch": question} if question else {}
    decorators = [(project, {"name": slug, "production": True} | of_question)]
    before = CHAIN[CHAIN.index(name) - 1] if name in CHAIN[1:] else None
    branch = f"prod.{question}" if question and before != CHAIN[0] else "prod"
    if name == CHAIN[0] or (before and cluster == "airflow"):
        decorators.append((schedule, cron))
    if before and cluster == "airflow":
        sensor = {"external_dag_id": f"{slug}.{branch}.{before}"}
        decorators.append(("airflow_external_task_sensor", sensor))
    elif before and cluster == "argo":
        trigger = {"name": before, "project": slug, "project_branch": branch}
        decorators.append((trigger_on_finish, {"flow": trigger}))
    return decorators


def _needs(name: str, settings: Settings, steps: list[str]) -> dict[str, StepResources]:
    """The resources of each step, from [resources] or by default; UserError for another step."""
    flow = name.removesuffix("Flow").lower()
    own = settings.resources.get(flow, {})
    for step in own:
        if step not in steps:
            hint = suggest(step, steps) or f" It has {', '.join(steps)}."
            raise UserError(f"[resources.{flow}.{step}] of project.toml: no such step.{hint}")
    needs = {step: StepResources() for step in steps} | RESOURCES.get(flow, {}) | own
    return {step: needs[step] for step in steps}
