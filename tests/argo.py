"""Runs what Metaflow compiled for Argo Workflows: each container on a disk of its own, in the DAG's order."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import demo

EVICTED_AFTER = 4  # seconds after the start of a task
FIELD = re.compile(r"\{\{(.*?)\}\}")
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n", "--preserve-env"]
# A pod of its own: nothing below /tmp but the image (this checkout), and a folder for what Argo reads.
POD = """
set -e
mount -t tmpfs pod /mnt
mkdir /mnt/out /mnt/image
mount --bind {out} /mnt/out
mount --bind {image} /mnt/image
mount -t tmpfs pod /tmp
mkdir -p {image} /tmp/work /tmp/home
mount --bind /mnt/image {image}
cd /tmp/work
exec env -i {variables} bash -c {script}
"""


@dataclass
class Task:
    """A container that ran: its step, the number of its shard, exit code, and what it printed."""

    step: str
    shard: str
    code: int
    text: str


@dataclass
class Workflow:
    """One run of a compiled flow. `variables` are what the cluster's secrets add to each container."""

    template: dict
    folder: Path
    variables: dict[str, str]
    evicted: tuple[str, ...] = ()  # steps whose first pod is killed while it works
    name: str = field(default_factory=lambda: f"run-{uuid.uuid4().hex[:6]}")
    tasks: list[Task] = field(default_factory=list)

    def run(self) -> "Workflow":
        """Run all tasks in the order of the DAG; a task that fails ends it."""
        spec = self.template["spec"]
        self._templates = {each["name"]: each for each in spec["templates"]}
        parameters = spec.get("arguments", {}).get("parameters", [])
        self._fields = {
            "workflow.name": self.name,
            "workflow.creationTimestamp": "2026-01-01T00:00:00Z",
            "retries": "0",
            **{f"workflow.parameters.{each['name']}": each["value"] for each in parameters},
        }
        self._run_dag(self._templates[spec["entrypoint"]], {})
        return self

    @property
    def failed(self) -> Task | None:
        return next((task for task in self.tasks if task.code), None)

    def text(self) -> str:
        return "\n".join(task.text for task in self.tasks)

    def _run_dag(self, template: dict, values: dict) -> dict[str, str]:
        """Run a DAG, whose tasks stand in any order; returns its output parameters."""
        left, values = list(template["dag"]["tasks"]), dict(values)
        ended: set[str] = set()
        while left and not self.failed:
            ready = [
                task
                for task in left
                if set(re.findall(r"([\w-]+)\.Succeeded", task.get("depends", ""))) <= ended
            ]
            assert ready, [task["name"] for task in left]
            for task in ready:
                left.remove(task)
                items = [None]
                if "withParam" in task:
                    items = json.loads(self._fill(task["withParam"], values))
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    outputs = list(
                        pool.map(lambda item, task=task: self._start(task, values, item), items)
                    )
                ended.add(task["name"])
                for name, value in outputs[0].items() if outputs else ():
                    values[f"tasks.{task['name']}.outputs.parameters.{name}"] = value
        wanted = [] if self.failed else template.get("outputs", {}).get("parameters", [])
        return {each["name"]: self._fill(each["valueFrom"]["parameter"], values) for each in wanted}

    def _start(self, task: dict, values: dict, item: object) -> dict[str, str]:
        values = values | ({} if item is None else {"item": str(item)})
        arguments = task.get("arguments", {}).get("parameters", [])
        inputs = {
            f"inputs.parameters.{each['name']}": self._fill(each["value"], values)
            for each in arguments
        }
        template = self._templates[task["template"]]
        if "dag" in template:
            return self._run_dag(template, inputs)
        if template["name"] in self.evicted and str(item or 0) == "0":
            self._run_container(template, inputs, is_evicted=True)
            inputs |= {"retries": "1"}
        return self._run_container(template, inputs)

    def _run_container(
        self, template: dict, inputs: dict, is_evicted: bool = False
    ) -> dict[str, str]:
        out = self.folder / f"{template['name']}-{uuid.uuid4().hex[:6]}"
        out.mkdir(parents=True)
        container = template["container"]
        shell, flag, script = (self._fill(each, inputs) for each in container["command"])
        assert (shell, flag) == ("bash", "-c")
        variables = {
            each["name"]: self._fill(each.get("value", f"of-{template['name']}"), inputs)
            for each in container["env"]
        }
        path = f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        variables |= self.variables | {"PATH": path, "HOME": "/tmp/home"}
        pod = POD.format(
            out=shlex.quote(str(out)),
            image=shlex.quote(str(demo.HERE)),
            variables=" ".join(shlex.quote(f"{name}={value}") for name, value in variables.items()),
            script=shlex.quote(script),
        )
        process = subprocess.Popen(
            [*AS_ROOT, "unshare", "-m", "bash", "-c", pod],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if is_evicted:
            next(line for line in process.stdout if "Task is starting" in line)
            time.sleep(EVICTED_AFTER)
            subprocess.run([*AS_ROOT, "kill", "-9", "--", f"-{process.pid}"], check=True)
        text, _ = process.communicate()
        shard = inputs.get("inputs.parameters.split-index", "")
        if is_evicted:
            assert process.returncode, "the pod had ended before"
            return {}
        self.tasks.append(Task(template["name"], shard, process.returncode, text))
        wanted = template.get("outputs", {}).get("parameters", [])
        files = {each["name"]: out / Path(each["valueFrom"]["path"]).name for each in wanted}
        return {name: path.read_text().strip() for name, path in files.items() if path.exists()}

    def _fill(self, text: str, values: dict) -> str:
        """The text with Argo's fields; one without a value is an error, as there."""

        def value(actual: re.Match) -> str:
            name = actual[1].strip()
            if encoded := re.fullmatch(r"=toBase64\(workflow\.parameters\['(.+)'\]\)", name):
                content = self._fields[f"workflow.parameters.{encoded[1]}"]
                return base64.b64encode(content.encode()).decode()
            return (self._fields | values)[name]

        return FIELD.sub(value, text)
