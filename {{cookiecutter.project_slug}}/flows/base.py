"""What every flow shares: where the project is, its settings, its store, and how a refusal is told.

Import this before Metaflow: a flow started by hand then behaves as one started by `make`.
"""

import getpass
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable
from functools import wraps
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = next((place for place in (HERE, HERE.parent) if (place / "dbt" / "dbt_project.yml").exists()), HERE.parent)
sys.path.insert(0, str(ROOT)) if str(ROOT) not in sys.path else None

from rails.errors import Refused  # noqa: E402 (the path comes first)
from rails.store import PROJECT, Store, default_store  # noqa: E402

if PROJECT != ROOT:
    raise SystemExit(f"`rails` comes from {PROJECT}, but this project is {ROOT}: run `make setup` here.")


def _user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "root"
    return "owner" if user == "root" else user  # Metaflow refuses to run as root, as containers do


for name, value in {
    "METAFLOW_USER": _user(),
    "METAFLOW_DEFAULT_DATASTORE": "local",
    "METAFLOW_DEFAULT_METADATA": "local",
    "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(default_store().root),
    "METAFLOW_PYLINT": "0",
    "METAFLOW_RUN_MAX_WORKERS": str(os.cpu_count()),
    "OMP_WAIT_POLICY": "PASSIVE",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(name, value)

from metaflow import Config, FlowSpec, package_sources  # noqa: E402 (its settings come first)


def read_settings(text: str) -> dict:
    """Settings from TOML, or from JSON as schedulers and `Runner` pass them."""
    try:
        return json.loads(text)
    except ValueError:
        return tomllib.loads(text)


def in_a_sentence(step: Callable) -> Callable:
    """A step in which a refusal, a full disk or a missing permission ends the run with its sentence and exit code 1."""

    @wraps(step)
    def run(self, *inputs):
        from ml.errors import CannotLearn

        try:
            step(self, *inputs)
        except (Refused, CannotLearn) as refusal:
            raise SystemExit(f"{refusal}") from None
        except OSError as error:
            raise SystemExit(
                f"{error.strerror or error}: {error.filename or 'data'}. Nothing was published; mend it and run "
                "the same command again."
            ) from error

    return run


@package_sources(
    ["../dbt", "../expectations", "../ml", "../rails", "../serving", "../profiles.yml"],
    suffixes=[".py", ".sql", ".yml", ".json", ".toml", ".html", ".css"],
)
class ProjectFlow(FlowSpec):
    """A flow of this project: `self.settings` is project.toml, `self.store` is where its data lies."""

    settings = Config("project", default=str(ROOT / "project.toml"), parser=read_settings)

    def store(self) -> Store:
        """Where this project's data lies."""
        return default_store()

    def title(self, what: str) -> str:
        """A page's title: what it shows, of which project."""
        return f"{what} · {self.settings['project']['name']}"

    @staticmethod
    def now() -> float:
        """The present as seconds since the epoch, to be kept as an artifact."""
        return time.time()

    @staticmethod
    def seconds_since(began_at: float) -> float:
        """How long the run took up to now."""
        return time.time() - began_at
