"""What every flow shares: where the project is, its settings, its store, and how a refusal ends.

Import this before Metaflow: a flow started by hand then behaves as one started by `make`.
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
from pathlib import Path
from typing import TYPE_CHECKING

from jollyboat.champions.champion import person
from jollyboat.flows.console import Console, stage
from jollyboat.pages.terminal import wrap
from jollyboat.store import PROJECT, Store, default_store
from jollyboat.store.errors import UserError, explain

LEAST_FREE_BYTES, SPARE_BYTES = 20_000_000, 1_000_000

# Given back when a step is refused, so that Metaflow can end the run in order on a full disk, too.
SPARE = default_store().root / ".spare"

if TYPE_CHECKING:
    from jollyboat.store.settings import Settings

for name, value in {
    "METAFLOW_USER": person(),  # never root, which Metaflow refuses to run as
    "METAFLOW_DEFAULT_DATASTORE": "local",
    "METAFLOW_DEFAULT_METADATA": "local",
    "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(default_store().root),
    "METAFLOW_CARD_LOCALROOT": str(default_store().root / ".metaflow" / "cards"),
    "METAFLOW_PYLINT": "0",
    "METAFLOW_RUN_MAX_WORKERS": str(os.cpu_count()),
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",  # its threads spin, on matrices of two columns, too
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(name, value)

from metaflow import Config, FlowSpec, package_sources  # noqa: E402 (its settings come first)
from metaflow.parameters import flow_context  # noqa: E402


def read_settings(text: str) -> dict:
    """Settings from TOML, or from JSON as schedulers and `Runner` pass them; a wrong entry ends the run."""
    from jollyboat.store import settings

    try:
        found = settings.check(json.loads(text)) if text.startswith("{") else settings.parse(text)
    except UserError as refusal:
        raise SystemExit(str(refusal)) from None
    return found.model_dump(mode="json")


def report_errors(step: Callable) -> Callable:
    """A step in which a refusal, a full disk or a missing permission ends the run with its sentence and exit code 1."""

    @wraps(step)
    def run(self, *inputs):
        import duckdb

        try:
            step(self, *inputs)
            if step.__name__ != "end":
                _refuse_full_disk(self.store(), SPARE_BYTES)
        except UserError as refusal:
            raise SystemExit(_keep(str(refusal))) from None
        except (OSError, duckdb.IOException, duckdb.FatalException) as error:
            place = getattr(error, "filename", None) or "data"
            what = f"{error.strerror}: {place}" if getattr(error, "strerror", None) else str(error)
            otherwise = f"{what}. Nothing was published; mend it and run the same command again."
            raise SystemExit(_keep(explain(what) or otherwise)) from error

    return run


def run_flow(name: str) -> bool:
    """Another flow of this project, run to its end; False where it refused, which it has said itself."""
    own = ("FLOW_PROCESS", "FLOW_REFUSAL")
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in own and not key.startswith("MF_")
    }
    command = [sys.executable, str(PROJECT / "flows" / f"{name}.py"), "run"]
    return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode == 0


def _keep(sentence: str) -> str | int:
    """What a task exits with; the console of the run's process prints the sentence at the end."""
    SPARE.unlink(missing_ok=True)
    if path := os.environ.get("FLOW_REFUSAL"):
        with suppress(OSError):
            Path(path).write_text(sentence, encoding="utf-8")
            return 1
    return sentence


def _refuse_full_disk(store: Store, least_bytes: int) -> None:
    """Refuse to go on where so little is left that not even Metaflow could keep its own files."""
    free = shutil.disk_usage(store.root).free
    if free < least_bytes:
        raise UserError(
            f"The disk is full: {free / 1e6:.0f} MB are left at {store.root}, and {least_bytes / 1e6:.0f} is the least "
            "to go on with. Nothing was published; make room, then run the same command again."
        )


def _begin(store: Store) -> Console:
    """Prepare the process of a run: check that there is room; returns the console of the run."""
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        _refuse_full_disk(store, LEAST_FREE_BYTES)
        SPARE.write_bytes(bytes(SPARE_BYTES))
    except OSError as error:
        what = f"{error.filename} cannot be written ({error.strerror})"
        raise SystemExit(wrap(f"{what}. Fix that, then run the same command again.")) from None
    except UserError as refusal:
        raise SystemExit(wrap(str(refusal))) from None
    os.environ["FLOW_PROCESS"] = str(os.getpid())
    os.environ["FLOW_REFUSAL"] = str(store.root / f".refusal-{os.getpid()}")
    return Console(Path(os.environ["FLOW_REFUSAL"]))


CONSOLE = None
if {"run", "resume"} & set(sys.argv) and "step" not in sys.argv:  # not a task, but what starts them
    CONSOLE = _begin(default_store())
elif sys.argv[1:] in (["card", "view"], ["card", "get"]):
    sys.argv.append("end")  # the step that has the card


@package_sources(
    [str(PROJECT / name) for name in ("dbt", "expectations", "ml", "profiles.yml", "project.toml")],
    suffixes=[".py", ".sql", ".yml", ".json", ".toml", ".html", ".css"],
)
class ProjectFlow(FlowSpec):
    """A flow of this project: `self.settings` is project.toml, `self.store` is where its data lies."""

    project_toml = Config("project", default=str(PROJECT / "project.toml"), parser=read_settings)
    stage = staticmethod(stage)

    def __init__(self, use_cli: bool = True) -> None:
        if CONSOLE:
            with flow_context(type(self)):  # importing Metaflow's CLI reads the flow's configs
                CONSOLE.install()
        super().__init__(use_cli)

    @property
    def settings(self) -> "Settings":
        """What project.toml said when the run began."""
        from jollyboat.store import settings

        return settings.check(self.project_toml.to_dict())

    def store(self) -> Store:
        """Where this project's data lies."""
        return default_store()

    @staticmethod
    def process() -> int:
        """The process of the run, of which this task is a child; where it is gone, the run was killed."""
        return int(os.environ.get("FLOW_PROCESS") or os.getppid())

    def title(self, what: str) -> str:
        """A page's title: what it shows, of which project."""
        return f"{what} · {self.settings.project.name}"

    @staticmethod
    def used() -> dict[str, float]:
        """CPU seconds and the most memory of this task, so far."""
        mine = resource.getrusage(resource.RUSAGE_SELF)
        peak = mine.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        return {"cpu_seconds": round(mine.ru_utime + mine.ru_stime, 1), "peak_mb": round(peak)}

    @staticmethod
    def now() -> float:
        """The present as seconds since the epoch, to be kept as an artifact."""
        return time.time()

    @staticmethod
    def seconds_since(began_at: float) -> float:
        """How long the run took up to now."""
        return time.time() - began_at
