"""The base of every flow: its settings, its store, and how a UserError ends a run.

Import this before Metaflow: then a flow started by hand behaves as one started by `make`.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from jollyboat.flows.console import Console, stage
from jollyboat.pages.terminal import wrap
from jollyboat.store import (
    PROJECT,
    Store,
    UserError,
    default_store,
    explain,
    name_question,
    person,
    synced,
)
from jollyboat.store.limits import CLUSTER, QUESTION, core_count
from jollyboat.store.session import metaflow_address

if TYPE_CHECKING:
    from jollyboat.store.settings import Settings

LEAST_FREE_BYTES, SPARE_BYTES = 20_000_000, 1_000_000

# Removed when a step is refused, so that Metaflow can end the run in order on a full disk.
SPARE = default_store().root / ".spare"
REMOTE = default_store().remote

for name, value in {
    "METAFLOW_USER": person(),  # never root, which Metaflow refuses to run as
    "METAFLOW_DEFAULT_DATASTORE": "local",
    "METAFLOW_DEFAULT_METADATA": "local",
    "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(default_store().root),
    "METAFLOW_CARD_LOCALROOT": str(default_store().root / ".metaflow" / "cards"),
    "METAFLOW_PYLINT": "0",
    "METAFLOW_RUN_MAX_WORKERS": str(core_count()),
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",  # its threads spin, even on matrices of two columns
    "DO_NOT_TRACK": "1",
    **({"METAFLOW_DATASTORE_SYSROOT_S3": metaflow_address(REMOTE)} if REMOTE else {}),
}.items():
    os.environ.setdefault(name, value)

from metaflow import Config, FlowSpec, Parameter, package_sources  # noqa: E402 (its settings come first)
from metaflow.parameters import flow_context  # noqa: E402

from jollyboat.flows.cluster import REFUSED, PlacedOnCluster  # noqa: E402 (it imports Metaflow)

# What a flow needs of the project where only its code package is.
PACKAGED = ("dbt", "expectations", "ml", "templates", "profiles.yml", "project.toml")


def read_settings(text: str) -> dict:
    """Settings from TOML, or from JSON as schedulers pass them; a wrong entry ends the run."""
    from jollyboat.store import settings

    try:
        is_json = text.startswith("{")
        checked = settings.check(json.loads(text)) if is_json else settings.parse(text)
    except UserError as refusal:
        raise SystemExit(str(refusal)) from None
    return checked.model_dump(mode="json")


def report_errors(step: Callable) -> Callable:
    """A step that ends the run with one sentence on a UserError, a full disk or no permission.

    On a cluster a UserError ends it with the code REFUSED, so that it is not tried again.
    """

    @wraps(step)
    def run(self, *inputs):
        import duckdb

        is_last = step.__name__ == "end"
        try:
            scope = self.scopes.get(step.__name__, self.scope)
            with synced(default_store(), "results" if is_last else scope):
                try:
                    step(self, *inputs)
                finally:
                    if is_last:
                        _write_overview(self)
            if not is_last:
                _check_disk(self.store(), SPARE_BYTES)
        except UserError as refusal:
            raise SystemExit(_refuse(self.name_question(str(refusal)))) from None
        except (OSError, duckdb.IOException, duckdb.FatalException) as error:
            raise SystemExit(_end_with(_sentence(error))) from error

    return run


def _write_overview(flow: "ProjectFlow") -> None:
    from jollyboat.serving.overview import write_overview

    write_overview(default_store(), flow.settings.project.name)


def _sentence(error: Exception) -> str:
    reason = getattr(error, "strerror", None)
    fault = f"{reason}: {getattr(error, 'filename', None) or 'data'}" if reason else str(error)
    return explain(fault) or (
        f"{fault}. Nothing was published; fix it, then run the same command again."
    )


def run_flow(name: str, *options: str) -> bool:
    """Run another flow of this project; False if it ended with an error, which it has printed.

    Raises UserError on a cluster, where each flow starts when the one before it has ended.
    """
    if CLUSTER in os.environ:
        raise UserError(
            f"A flow on a cluster does not run {name}: there it starts when the one before it has "
            "ended. Start MonitorFlow without --auto."
        )
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("FLOW_PROCESS", "FLOW_REFUSAL") and not key.startswith("MF_")
    }
    command = [sys.executable, str(PROJECT / "flows" / f"{name}.py"), "run", *options]
    return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode == 0


def _refuse(sentence: str) -> str | int:
    """How a task ends that is not to be tried again."""
    if CLUSTER not in os.environ:
        return _end_with(sentence)
    print(sentence, file=sys.stderr)
    return REFUSED


def _end_with(sentence: str) -> str | int:
    """The exit code of a task whose console prints the sentence; else the sentence."""
    SPARE.unlink(missing_ok=True)
    path = os.environ.get("FLOW_REFUSAL")
    if path:
        with suppress(OSError):
            Path(path).write_text(sentence, encoding="utf-8")
            return 1
    return sentence


def _check_disk(store: Store, least_bytes: int) -> None:
    """Raise UserError while Metaflow can still write its own files."""
    free = shutil.disk_usage(store.root).free
    if free < least_bytes:
        raise UserError(
            f"The disk is full: {free / 1e6:.0f} MB are left at {store.root}, and a run needs "
            f"{least_bytes / 1e6:.0f} MB. Nothing was published; make room, then run the same "
            "command again."
        )


def _begin(store: Store) -> Console:
    """Check that a run has room, and return its console."""
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        _check_disk(store, LEAST_FREE_BYTES)
        SPARE.write_bytes(bytes(SPARE_BYTES))
    except OSError as error:
        fault = f"{error.filename} cannot be written ({error.strerror})"
        raise SystemExit(wrap(f"{fault}. Fix it, then run the same command again.")) from None
    except UserError as refusal:
        raise SystemExit(wrap(str(refusal))) from None
    os.environ["FLOW_PROCESS"] = str(os.getpid())
    os.environ["FLOW_REFUSAL"] = str(store.root / f".refusal-{os.getpid()}")
    return Console(Path(os.environ["FLOW_REFUSAL"]))


CONSOLE = None
if {"run", "resume"} & set(sys.argv) and "step" not in sys.argv:  # the run, not one of its tasks
    CONSOLE = _begin(default_store())
elif sys.argv[1:] in (["card", "view"], ["card", "get"]):
    sys.argv.append("end")  # the step that has the card


@PlacedOnCluster
@package_sources(
    [str(PROJECT / name) for name in PACKAGED if (PROJECT / name).exists()],
    suffixes=[".py", ".sql", ".yml", ".json", ".toml", ".html", ".css", ".md"],
)
class ProjectFlow(FlowSpec):
    """A flow of this project: `self.settings` is project.toml, `self.store()` is its data."""

    project_toml = Config("project", default=str(PROJECT / "project.toml"), parser=read_settings)
    stage = staticmethod(stage)
    scope = "results"  # what its tasks pull from a bucket: see jollyboat.store.remote.SCOPES
    scopes: ClassVar[dict[str, str]] = {}  # of the steps that need something else

    def __init__(self, use_cli: bool = True) -> None:
        if CONSOLE:
            with flow_context(type(self)):  # importing Metaflow's CLI reads the flow's configs
                CONSOLE.install()
        super().__init__(use_cli)

    @property
    def settings(self) -> "Settings":
        """The settings in project.toml at the start of the run."""
        from jollyboat.store import settings

        return settings.check(self.project_toml.to_dict())

    def store(self) -> Store:
        """The store of this project's data."""
        return default_store()

    def name_question(self, sentence: str) -> str:
        """The sentence, whose commands name the flow's question where that is not the first."""
        with suppress(UserError):  # the question itself may be unknown
            return name_question(sentence, self.store().question)
        return sentence

    def refuse(self, sentence: str) -> None:
        """End the run with this sentence: raises UserError.

        On a cluster the run ends without an error, for only then do the flows that follow it start.
        There `self.refused` is the sentence, and the page if the step has not written one.
        """
        if CLUSTER not in os.environ:
            raise UserError(sentence)
        sentence = self.name_question(sentence)
        print(sentence, file=sys.stderr)
        self.refused = sentence
        if not hasattr(self, "html"):
            self.html = f"<p>{escape(sentence)}</p>"

    @staticmethod
    def process() -> int:
        """The process of the run, whose child this task is; if it ended, the run was killed."""
        return int(os.environ.get("FLOW_PROCESS") or os.getppid())

    def title(self, what: str) -> str:
        """A page's title with the project's name."""
        return f"{what} · {self.settings.project.name}"

    @staticmethod
    def resource_usage() -> dict[str, float]:
        """The CPU seconds and the peak memory of this task up to now."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        peak = usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        return {"cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1), "peak_mb": round(peak)}

    @staticmethod
    def now() -> float:
        """The time in seconds since the epoch, which an artifact can keep."""
        return time.time()

    @staticmethod
    def seconds_since(began_at: float) -> float:
        """The seconds from `began_at` to now."""
        return time.time() - began_at


class QuestionFlow(ProjectFlow):
    """A flow about one question: its settings, and its runs, models and scores in the store."""

    question = Parameter(
        "question",
        default=os.environ.get(QUESTION, ""),
        help="a question of project.toml; the first by default",
    )

    @property
    def settings(self) -> "Settings":
        """The settings of project.toml with the question's own entries; UserError if unknown."""
        settings = super().settings
        return settings.of(settings.store_name(self.question))

    def store(self) -> Store:
        """The store of this project's data, with the question's runs, models and scores."""
        return default_store().of(super().settings.store_name(self.question))
