"""dbt over the project's warehouse: its settings, one locked run of it, and its results."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import duckdb
import yaml
from jinja2 import Template

from jollyboat.landing import landing
from jollyboat.landing.landing import Landing
from jollyboat.store import (
    LIBRARY,
    PROJECT,
    Store,
    UserError,
    explain,
    hash_file,
    hash_folder,
    hash_text,
    is_alive,
    leased,
    project_settings,
    read_json,
    suggest,
    write_json,
)
from jollyboat.store.limits import container_memory
from jollyboat.warehouse import spark_build
from jollyboat.warehouse.variables import Variables, parse

DBT = PROJECT / "dbt"
DBT_RUN = ("dbt.cli.main", "run", "--no-use-colors")
TOO_LITTLE_BYTES = 1_000_000
MEMORY_LIMIT = "DUCKDB_MEMORY_LIMIT"  # the variable in profiles.yml
QUOTE = re.compile(r"\((models/\S+[.]sql)\).*?^ *LINE \d+: (.*?)$", re.DOTALL | re.MULTILINE)
CONTAINER_SHARE = 0.6  # the rest is for Python, and for what DuckDB does not count


def variables() -> Variables:
    """The `vars` of `dbt/dbt_project.yml`; UserError where one is wrong."""
    return parse((DBT / "dbt_project.yml").read_text(encoding="utf-8"))


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """The warehouse, read only, within `memory_limit`."""
    return duckdb.connect(str(store.warehouse), read_only=True, config=memory_limit())


def count_rows(store: Store, table: str) -> int:
    """The number of rows of a table of the warehouse."""
    with connect(store) as connection:
        return connection.table(table).aggregate("count(*)").fetchone()[0]


def memory_limit() -> dict[str, str]:
    """DuckDB's setting for the memory that it may take before it uses the disk.

    In a container with a limit it is a share of that, else what `profiles.yml` says. DuckDB itself
    takes as many threads as the container has cores.
    """
    most = container_memory()
    if most and MEMORY_LIMIT not in os.environ:
        return {"memory_limit": f"{int(most * CONTAINER_SHARE) // 1_000_000}MB"}
    text = (PROJECT / "profiles.yml").read_text(encoding="utf-8")
    profile = yaml.safe_load(Template(text).render(env_var=os.environ.get))["project"]
    return {"memory_limit": profile["outputs"][profile["target"]]["settings"]["memory_limit"]}


def source_names() -> tuple[list[str], list[str]]:
    """The sources of events, and those that the project's server writes."""
    settings = variables()
    return settings.sources, settings.feedback_sources


def environment(store: Store) -> dict[str, str]:
    """An environment in which dbt finds the project from any folder and writes below `data/`."""
    return os.environ | {
        "STORE_ROOT": str(store.root),
        "DBT_PROJECT_DIR": str(DBT),
        "DBT_PROFILES_DIR": str(PROJECT),
        "DBT_TARGET_PATH": str(store.dbt / "target"),
        "DBT_LOG_PATH": str(store.dbt / "logs"),
        MEMORY_LIMIT: memory_limit()["memory_limit"],
        "DO_NOT_TRACK": "1",
    }


def land(store: Store, accepts: bool = False, tenant: str | None = None) -> Landing:
    """`landing.land` with the settings of `dbt/dbt_project.yml`."""
    settings = variables()
    sources, feedback = settings.sources, settings.feedback_sources
    _refuse_unmapped(sources)
    return landing.land(store, sources, feedback, settings.lines_at_once, accepts, tenant)


def _refuse_unmapped(sources: Sequence[str]) -> None:
    """UserError for a source that no staging model maps."""
    models = [path.stem for path in (DBT / "models").rglob("stg_*__events.sql")]
    mapped = [name.removeprefix("stg_").removesuffix("__events") for name in models]
    if missing := [source for source in sources if source not in mapped]:
        raise UserError(
            f"vars: sources in dbt_project.yml has {missing[0]!r}, and no staging model maps it."
            f"{suggest(missing[0], mapped)} Correct the name, or run "
            f"`jollyboat add source {missing[0]}`, which writes the model."
        )


def accept_days(store: Store, tenant: str | None = None) -> list[str]:
    """Accept the days that the last build reports, of one tenant or of all; returns all days.

    They are in `missing_ids` and `tenant_days`.
    """
    query = """
        with days as (
            select *, is_unusual as is_reported from missing_ids
            union all by name
            select *, is_collapsed or is_quarantined as is_reported from tenant_days)
        select distinct tenant_id, source, cast(arrived_on as varchar) as arrived_on from days
        where is_accepted or is_reported and ($tenant is null or tenant_id = $tenant)
        order by all"""
    try:
        with connect(store) as connection:
            days = connection.execute(query, {"tenant": tenant}).df().to_dict("records")
    except (duckdb.IOException, duckdb.CatalogException) as error:
        raise UserError(
            "The days to accept are not known: no `make data` has ended yet, or one is running. "
            "Run `make data`, then `jollyboat land --accept`."
        ) from error
    write_json(store.accepted_days, days)
    return [f"{day['source']}/dt={day['arrived_on']} of {day['tenant_id']}" for day in days]


@contextmanager
def locked(
    store: Store,
    build_id: str | None = None,
    run_process: int | None = None,
    patience_seconds: float = 60,
) -> Iterator[int]:
    """Hold the lock for writing the warehouse; yields its descriptor, which dbt inherits.

    So the dbt of a killed run keeps the lock until it ends. This waits for it, but not for a run
    whose process (`run_process`) lives. Raises UserError with the holder and its start. With
    `build_id`, raises UserError if another run has built the tables since that build.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    with (store.root / ".warehouse.lock").open("a+") as file:
        _acquire(file, time.monotonic() + patience_seconds)
        file.seek(0)
        file.truncate()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "run": run_process or os.getppid(), "since": since}
        file.write(json.dumps(holder))
        file.flush()
        if build_id and _last_build(store).get("id") != build_id:
            raise UserError(
                "Another data run has built the tables after they were audited; "
                "nothing was published. Run `make data` again."
            )
        with leased():
            yield file.fileno()


def _acquire(file: TextIO, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = json.loads(file.read() or "{}")
        is_running = is_alive(holder.get("pid")) and is_alive(holder.get("run"))
        if is_running or time.monotonic() > deadline:
            who = "Another data run" if is_running else "The rest of a killed data run"
            raise UserError(
                f"{who} (process {holder.get('pid')}) has been writing the warehouse since "
                f"{holder.get('since')}. Wait for it to end, then run the same command again."
            )
        time.sleep(0.2)


@dataclass(frozen=True)
class Build:
    """A build of the tables. `process` is its `dbt run`; None if the last build is up to date.

    `models` are those that shards have built before (see shards.py).
    """

    process: subprocess.Popen | None
    inputs: dict[str, str]
    models: list[dict] = field(default_factory=list)


def start_dbt(store: Store, lock: int, landing: Landing) -> Build:
    """Start `dbt run` in a process that shares the lock; its output goes to a log in `data/dbt`.

    dbt reads the raw files that are new, and builds all other tables from the first row. It does
    not start if code, raw files, salt and folder are the same as in the last build.
    """
    check_folder(store)
    inputs, program = build_inputs(store, landing.fingerprint), DBT_RUN
    if inputs["engine"] == "spark":
        spark_build.check_machine(store)
        program = ("jollyboat.warehouse.spark_build",)
    link_package()
    if store.warehouse.exists() and inputs.items() <= _last_build(store).items():
        return Build(None, inputs)
    _build_file(store).unlink(missing_ok=True)
    spark_build.scratch(store)
    return Build(run_dbt(store, lock=lock, program=program), inputs)


def check_folder(store: Store) -> None:
    """Raise UserError where dbt would cut the path of the warehouse."""
    if separators := sorted(set("?#") & set(str(store.root))):
        raise UserError(
            f"dbt cannot open a database in {store.root}: the path has a {separators[0]!r}. "
            "Rename that folder, then run the same command again."
        )


def build_inputs(store: Store, landed: str) -> dict[str, str]:
    """What decides the rows of a build; `landed` is the fingerprint of the raw files."""
    return {
        "code": code_fingerprint(),
        "landed": landed,
        "accepted": hash_file(store.accepted_days),
        "salt": hash_text("", store.read_salt()),
        "root": str(store.root),  # the views have the paths of their files
        "engine": project_settings().build.engine,
    }


def run_dbt(
    store: Store, *options: str, lock: int | None = None, program: Sequence[str] = DBT_RUN
) -> subprocess.Popen:
    """A process of `dbt run` over the store's warehouse, with its output in a log."""
    log = store.dbt / "logs"
    log.mkdir(parents=True, exist_ok=True)
    link_package()
    with (log / "run.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *program, *options],
            env=environment(store),
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[] if lock is None else [lock],
        )


def finish_dbt(store: Store, build: Build) -> str:
    """Wait for dbt and return the build's id; UserError with the model and the error."""
    if build.process is None:
        return _last_build(store)["id"]
    if build.process.wait() != 0:
        raise UserError(dbt_error(store))
    _sweep_staged(store)
    build_id, results = uuid.uuid4().hex, _results(store)
    names = {each["name"] for each in results["models"]}
    before = [each for each in build.models if each["name"] not in names]
    results["models"] = [*before, *results["models"]]
    write_json(_build_file(store), {"id": build_id, **build.inputs, **results})
    return build_id


def dbt_error(store: Store) -> str:
    """Why dbt failed, as its log says: the model and the error, and what to do."""
    text = (store.dbt / "logs" / "run.txt").read_text(errors="replace")
    if shutil.disk_usage(store.root).free < TOO_LITTLE_BYTES:
        text += f"\nNo space left on device: {store.root}"  # dbt could not write its log either
    start = text.rfind("Failure in")
    cause = text[start:] if start >= 0 else "\n".join(text.splitlines()[-25:])
    return explain(text) or (
        f"dbt could not build the tables; nothing was published.\n{cause.strip()[:3000]}\n"
        f"Fix {_find_line(cause) or 'the model named above'}, then run `make data` again. "
        "The whole log is data/dbt/logs/run.txt."
    )


def _find_line(cause: str) -> str:
    """The line of the project's model that DuckDB quotes, if the model has it once."""
    quote = QUOTE.search(cause)
    if not (quote and (DBT / quote[1]).is_file()):
        return ""
    text = quote[2].removeprefix("...").removesuffix("...").strip()
    lines = (DBT / quote[1]).read_text(encoding="utf-8").splitlines()
    places = [number for number, line in enumerate(lines, 1) if text in line]
    return f"line {places[0]} of dbt/{quote[1]}" if len(places) == 1 else ""


def _sweep_staged(store: Store) -> None:
    """Remove the staged files that no view reads, except those that the code before this one made.

    With them a return to that code reads no raw line again.
    """
    with connect(store) as connection:
        (views,) = connection.sql(
            "select string_agg(sql, '') from duckdb_views() where not internal"
        ).fetchone()
    files = sorted(store.staged.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    used = [path for path in files if path.name in views]
    for path in used:
        path.touch()  # so the newest unused files are those of the code before
    portions = {_parts(path)[:2] for path in used}
    old = [path for path in files if path not in used and _parts(path)[:2] in portions]
    last_codes = {source: code for source, _, code in map(_parts, old)}
    kept = [path for path in old if last_codes[_parts(path)[0]] == _parts(path)[2]]
    for path in set(files) - {*used, *kept}:
        path.unlink()


def _parts(staged: Path) -> tuple[str, str, str]:
    """A staged file's source, the hash of its raw files, and the hash of its code."""
    source, _, hashes = staged.stem.partition("-")
    portion, _, code = hashes.partition("-")
    return source, portion, code


def link_package(project: Path = PROJECT) -> Path:
    """The link dbt/dbt_packages/jollyboat to the library's dbt package; made if it is not there."""
    link = project / "dbt" / "dbt_packages" / "jollyboat"
    target = os.path.relpath(LIBRARY / "dbt", link.parent.resolve())
    if not (link.is_symlink() and link.readlink() == Path(target)):
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)  # a copy of the project that followed the link
        link.parent.mkdir(exist_ok=True)
        draft = link.with_name(f".jollyboat-{os.getpid()}")
        draft.symlink_to(target)
        draft.replace(link)
    return link


def code_fingerprint() -> str:
    """A hash of the dbt files that decide the tables' rows, the library's included."""
    return hash_folder(DBT, ".sql", ".yml", ".csv") + hash_folder(LIBRARY / "dbt", ".sql", ".yml")


def compiled(store: Store, model: str) -> str:
    """The SQL of a model as dbt last compiled it."""
    (path,) = (store.dbt / "target" / "compiled").rglob(f"{model}.sql")
    return path.read_text(encoding="utf-8")


def last_models(store: Store) -> list[dict]:
    """The models of the last build in order, each with `name`, `seconds` and `parents`."""
    return _last_build(store)["models"]


def published_tables(store: Store) -> dict[str, str]:
    """The tables of a snapshot, each with its column of the day: `published_by` in its meta."""
    return _last_build(store)["published_by"]


def published_queries(store: Store) -> list[str]:
    """The queries of a snapshot over its tables: `published_as: query` in a model's meta."""
    return _last_build(store)["published_queries"]


def question(store: Store) -> dict:
    """The `outcome` of an event, the `prediction_points` of sessions, and `personal_fields`."""
    return _last_build(store).get("question", {})


def other_questions(store: Store) -> dict[str, dict]:
    """The definitions of all questions but the first, by name."""
    return _last_build(store).get("questions", {})


def feature_sql(store: Store) -> dict[str, str]:
    """The SQL that computes each question's features, as dbt last compiled it; "" is the first.

    Of a ranking it computes the pairs of points and candidate items.
    """
    names = {
        name: f"{name}_{'pairs' if 'item' in one else 'features'}_at_point"
        for name, one in other_questions(store).items()
    }
    return {
        name: compiled(store, model) for name, model in {"": "features_at_point", **names}.items()
    }


def _build_file(store: Store) -> Path:
    return store.dbt / "built.json"


def _last_build(store: Store) -> dict:
    return read_json(_build_file(store), default={})


def _results(store: Store) -> dict:
    """The models of dbt's last run in order, and those that a snapshot publishes."""
    manifest = read_json(store.dbt / "target" / "manifest.json")
    meta = {
        node["name"]: node["config"].get("meta", {})
        for node in sorted(manifest["nodes"].values(), key=lambda node: node["name"])
        if node["resource_type"] == "model"
    }
    return {
        "models": models_of_run(store),
        "published_by": {
            name: each["published_by"] for name, each in meta.items() if "published_by" in each
        },
        "published_queries": [
            name for name, each in meta.items() if each.get("published_as") == "query"
        ],
        "question": {
            "outcome": meta["events"].get("outcome", "false"),
            "prediction_points": variables().prediction_points,
            "personal_fields": variables().personal_fields,
        },
        "questions": {
            name.removesuffix("_points"): each["question"]
            for name, each in meta.items()
            if "question" in each
        },
    }


def models_of_run(store: Store) -> list[dict]:
    """The models of dbt's last run in order, each with `name`, `seconds` and `parents`."""
    results = read_json(store.dbt / "target" / "run_results.json")["results"]
    parents = read_json(store.dbt / "target" / "manifest.json")["parent_map"]
    return [
        {
            "name": _name(result["unique_id"]),
            "seconds": result["execution_time"],
            "parents": sorted(map(_name, parents[result["unique_id"]])),
        }
        for result in results
    ]


def _name(unique_id: str) -> str:
    """A model's name from dbt's unique id, such as `model.jollyboat.events`."""
    return unique_id.rpartition(".")[2]
