"""dbt over the project's warehouse: its settings, and one run of it under a lock."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import duckdb
import yaml

from jollyboat.landing import landing
from jollyboat.landing.landing import Landing
from jollyboat.store import (
    PROJECT,
    Store,
    hash_folder,
    hash_text,
    is_alive,
    read_json,
    write_json,
)
from jollyboat.store.errors import UserError, explain
from jollyboat.store.project import LIBRARY
from jollyboat.warehouse.variables import Variables, parse

DBT = PROJECT / "dbt"
TOO_LITTLE_BYTES = 1_000_000


def variables() -> Variables:
    """The `vars` of `dbt/dbt_project.yml`: what is set once for SQL; UserError where one is wrong."""
    return parse((DBT / "dbt_project.yml").read_text(encoding="utf-8"))


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """The warehouse, to be read, within the memory that `profiles.yml` sets."""
    return duckdb.connect(str(store.warehouse), read_only=True, config=memory_limit())


def count_rows(store: Store, table: str) -> int:
    """The number of rows of a table of the warehouse."""
    with connect(store) as connection:
        return connection.table(table).aggregate("count(*)").fetchone()[0]


def memory_limit() -> dict[str, str]:
    """The memory that DuckDB may take before it goes on on disk, as a setting of its own."""
    profile = yaml.safe_load((PROJECT / "profiles.yml").read_text(encoding="utf-8"))["project"]
    return {"memory_limit": profile["outputs"][profile["target"]]["settings"]["memory_limit"]}


def source_names() -> tuple[list[str], list[str]]:
    """The sources that are read, and those that are fed back by this project itself."""
    found = variables()
    return found.sources, found.feedback_sources


def environment(store: Store) -> dict[str, str]:
    """The environment in which dbt finds this project, whatever the working directory, and leaves `dbt/` clean."""
    return os.environ | {
        "STORE_ROOT": str(store.root),
        "DBT_PROJECT_DIR": str(DBT),
        "DBT_PROFILES_DIR": str(PROJECT),
        "DBT_TARGET_PATH": str(store.dbt / "target"),
        "DBT_LOG_PATH": str(store.dbt / "logs"),
        "DO_NOT_TRACK": "1",
    }


def land(store: Store) -> Landing:
    """Bring the catalog of raw files up to date, by the settings of `dbt/dbt_project.yml`; see `landing.land`."""
    return landing.land(store, *source_names(), lines_at_once=variables().lines_at_once)


@contextmanager
def locked(
    store: Store,
    build_id: str | None = None,
    run_process: int | None = None,
    patience_seconds: float = 60,
) -> Iterator[int]:
    """Hold the right to write the warehouse; yields the lock's descriptor, which dbt inherits, so that the leftovers of
    a killed run keep it until they end: those are waited for, a run that is under way (`run_process` lives) is not.

    Raises UserError with who holds it since when, or, with `build_id`, that another run has built the tables since.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    with (store.root / ".warehouse.lock").open("a+") as file:
        _acquire(file, time.monotonic() + patience_seconds)
        file.seek(0)
        file.truncate()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(
            json.dumps({"pid": os.getpid(), "run": run_process or os.getppid(), "since": since})
        )
        file.flush()
        if build_id and read_json(store.dbt / "built.json", default={}).get("id") != build_id:
            raise UserError(
                "Another data run has built the tables since these were audited; nothing was published. "
                "`make data` again."
            )
        yield file.fileno()


def _acquire(file: TextIO, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = json.loads(file.read() or "{}")
            is_under_way = is_alive(holder.get("pid")) and is_alive(holder.get("run"))
            if is_under_way or time.monotonic() > deadline:
                who = (
                    "Another data run"
                    if is_under_way
                    else "What is left of a data run that was killed"
                )
                raise UserError(
                    f"{who} (process {holder.get('pid')}) has been writing the warehouse since {holder.get('since')}. "
                    "Wait for it to end, then run the same command again."
                ) from None
            time.sleep(0.2)


@dataclass(frozen=True)
class Build:
    """A build of the tables: its `dbt run`, or None where the last build is still right; what it is made from."""

    process: subprocess.Popen | None
    inputs: dict[str, str]


def start_dbt(store: Store, lock: int, landing: Landing) -> Build:
    """Start `dbt run` in a process of its own that holds the lock with us; its output goes to the log below `data/dbt`.

    dbt reads the raw files that it has not read yet, and builds all other tables from the first row. It is not started
    where SQL, raw files, salt and place are those of the last build.
    """
    log = store.dbt / "logs"
    log.mkdir(parents=True, exist_ok=True)
    inputs = {
        "code": code_fingerprint(),
        "landed": landing.fingerprint,
        "salt": hash_text("", store.read_salt()),
        "root": str(store.root),  # the views hold the paths of their files
    }
    link_package()
    built = read_json(store.dbt / "built.json", default={})
    if store.warehouse.exists() and inputs == {name: built.get(name) for name in inputs}:
        return Build(None, inputs)
    (store.dbt / "built.json").unlink(missing_ok=True)
    with (log / "run.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dbt.cli.main", "run", "--no-use-colors"],
            env=environment(store),
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
        )
    return Build(process, inputs)


def finish_dbt(store: Store, build: Build) -> str:
    """Wait for dbt and return the build's id; raise UserError with the model and the error where it failed."""
    if build.process is None:
        return read_json(store.dbt / "built.json")["id"]
    if build.process.wait() == 0:
        _sweep_staged(store)
        build_id = uuid.uuid4().hex
        write_json(store.dbt / "built.json", {"id": build_id, **build.inputs, **_models(store)})
        return build_id
    text = (store.dbt / "logs" / "run.txt").read_text(errors="replace")
    if shutil.disk_usage(store.root).free < TOO_LITTLE_BYTES:
        text += f"\nNo space left on device: {store.root}"  # dbt could not write its log either
    if sentence := explain(text):
        raise UserError(sentence)
    found = text.rfind("Failure in")
    where = text[found:] if found >= 0 else "\n".join(text.splitlines()[-25:])
    raise UserError(
        f"dbt could not build the tables; nothing was published.\n{where.strip()[:3000]}\n"
        "Mend the model named above, then `make data` (the whole log: data/dbt/logs/run.txt)."
    )


def _sweep_staged(store: Store) -> None:
    """Remove the staged files that no view reads: of raw files that changed or went, of a killed build, of old code.

    Those of the code before this one stay, so that the way back to it reads no raw line again.
    """
    with connect(store) as connection:
        (views,) = connection.sql(
            "select string_agg(sql, '') from duckdb_views() where not internal"
        ).fetchone()
    files = sorted(store.staged.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    used = [path for path in files if path.name in views]
    for path in used:
        path.touch()  # so that the code before is the one whose files are newest
    portions = {_parts(path)[:2] for path in used}
    old = [path for path in files if path not in used and _parts(path)[:2] in portions]
    last_codes = {source: code for source, _, code in map(_parts, old)}
    kept = [path for path in old if last_codes[_parts(path)[0]] == _parts(path)[2]]
    for path in set(files) - {*used, *kept}:
        path.unlink()


def _parts(staged: Path) -> tuple[str, str, str]:
    """The parts of a staged file's name: the source, the hash of its raw files, the hash of the code that read them."""
    source, _, hashes = staged.stem.partition("-")
    portion, _, code = hashes.partition("-")
    return source, portion, code


def link_package(project: Path = PROJECT) -> Path:
    """The link dbt/dbt_packages/jollyboat to the library's dbt package, made where it is missing or wrong."""
    link = project / "dbt" / "dbt_packages" / "jollyboat"
    target = os.path.relpath(LIBRARY / "dbt", link.parent.resolve())
    if not (link.is_symlink() and link.readlink() == Path(target)):
        link.parent.mkdir(exist_ok=True)
        draft = link.with_name(f".jollyboat-{os.getpid()}")
        draft.symlink_to(target)
        draft.replace(link)
    return link


def code_fingerprint() -> str:
    """A hash of everything under `dbt/` that shapes rows; when it changes, the tables are built again."""
    return hash_folder(DBT, ".sql", ".yml", ".csv") + hash_folder(LIBRARY / "dbt", ".sql", ".yml")


def compiled(store: Store, model: str) -> str:
    """The SQL of a model as dbt last compiled it."""
    (path,) = Path(store.dbt / "target" / "compiled").rglob(f"{model}.sql")
    return path.read_text(encoding="utf-8")


def last_models(store: Store) -> list[dict]:
    """The models of the last build in their order: `name`, `seconds`, and `parents`, what each was made from."""
    return read_json(store.dbt / "built.json")["models"]


def published_tables(store: Store) -> dict[str, str]:
    """The tables of a snapshot, each with the column by whose day it is cut: `published_by` in a model's meta."""
    return read_json(store.dbt / "built.json")["published_by"]


def published_queries(store: Store) -> list[str]:
    """What a snapshot has as a query over its tables: `published_as: query` in a model's meta."""
    return read_json(store.dbt / "built.json")["published_queries"]


def _models(store: Store) -> dict:
    """What dbt's own files say of the last run: the models in their order, and which of them are published."""
    results = read_json(store.dbt / "target" / "run_results.json")["results"]
    manifest = read_json(store.dbt / "target" / "manifest.json")
    parents, nodes = manifest["parent_map"], manifest["nodes"].values()
    meta = {
        node["name"]: node["config"].get("meta", {})
        for node in nodes
        if node["resource_type"] == "model"
    }
    return {
        "models": [
            {
                "name": each["unique_id"].rpartition(".")[2],
                "seconds": each["execution_time"],
                "parents": sorted(
                    parent.rpartition(".")[2] for parent in parents[each["unique_id"]]
                ),
            }
            for each in results
        ],
        "published_by": {
            name: one["published_by"] for name, one in sorted(meta.items()) if "published_by" in one
        },
        "published_queries": sorted(
            name for name, one in meta.items() if one.get("published_as") == "query"
        ),
    }
