"""Erasure: raw records about a tenant or person go, and all made from them is built again.

The plan (`erase_plan.py`) is kept in `data/.erasing.json` until all of it is done: the same command
finishes what a kill left. Only raw files are edited; what could name somebody is removed whole.
Bundles hold no rows about anyone. `data/erasures.jsonl` records an erasure without the ids.
"""

import glob
import json
import re
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from jollyboat.audit import audit, held
from jollyboat.bundles.bundle import SHARED
from jollyboat.champions import champion
from jollyboat.erasure import erase_plan
from jollyboat.erasure.raw_records import numbered_records
from jollyboat.landing import records
from jollyboat.pages.terminal import format_count, join_lines
from jollyboat.snapshots import retention, snapshot
from jollyboat.store import (
    TENANT_ID,
    Store,
    UserError,
    hash_file,
    quoted,
    read_json,
    remove_history,
    replacing,
    unused_name,
    write_json,
)
from jollyboat.warehouse import warehouse

# What is removed whole, for each command writes its own again.
REMOVED = (
    "dbt",
    "reports",
    "scores",
    "shards",
    ".metaflow",
    "truth.parquet",
    "index.html",
    "monitor/latest.json",
    "monitor/report.html",
)
# What else this project writes below data/.
OTHERS = {
    *(
        "raw",
        "live",
        "landed",
        "staged",
        "warehouse.duckdb",
        "tables",
        "snapshots",
        "runs",
        "models",
        "monitor",
        "questions",
    ),
    *("erasures.jsonl", "accepted_days.json", "demo.json", "simulated.json", "simulated.txt"),
}


def erase(
    store: Store,
    tenant: str | None,
    person: str | None,
    linked: str | None = "erase",
    agree: Callable[[str], None] | None = None,
) -> dict:
    """Remove every record about a tenant or a person; return what was removed.

    A person is given by any id, of one tenant or of all; `linked` is as in erase_plan.py. Before
    anything goes, `agree` gets what will go as a clause, and raises to keep it. Raises
    UserError where there is nothing to remove, linked ids wait for a decision, another erasure is
    unfinished, or a server is writing about them; and, when everything is removed, where the rest
    cannot be published.
    """
    requested = {"tenant": tenant, "person": person}
    with warehouse.locked(store) as lock:
        plan = read_json(store.erasing) or erase_plan.plan(store, requested, linked)
        if plan["requested"] != requested:
            named = " ".join(
                f"--{name} {value}" for name, value in plan["requested"].items() if value
            )
            raise UserError(
                f"An erasure is not finished: first run `jollyboat erase {named}` again."
            )
        removed = {
            "records": sum(len(one["lines"]) for one in plan["files"].values()),
            "files": len(plan["files"]),
            "snapshots": plan["snapshots"],
            "runs": plan["runs"],
        }
        if agree and not store.erasing.exists():
            agree(_format_removed(removed))
        write_json(store.erasing, plan)
        for name, one in plan["files"].items():
            path = store.root / name
            if path.exists() and hash_file(path) == one["sha256"]:
                _rewrite(path, set(one["lines"]))
        _remove_derived(store, plan["runs"])
        published, critical = _rebuild(store, lock, requested)
        retention.remove(
            store, [each for each in plan["snapshots"] if not published or each != published.id]
        )
        cards = [] if person else _remove_what_names_tenants(store, plan["models"], tenant)
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": "person" if person else "tenant",
        **removed,
        "snapshot": snapshot.latest_id(store) or None,
        "models": plan["models"],
        "cards": cards,
        "bucket": remove_history(store),
    }
    with store.erasures.open("a", encoding="utf-8") as file:
        file.write(json.dumps(report) + "\n")
    store.erasing.unlink()
    if critical:
        raise UserError(
            f"The {report['what']} is erased, and so is every snapshot about them. "
            "The rest cannot be published: "
            f"{critical}. Fix it, then `make data`."
        )
    return report


def _format_removed(removed: dict) -> str:
    """The counts, such as "12 records of 3 files, and with them 1 snapshot and 2 runs"."""
    return (
        f"{format_count(removed['records'], 'record')} of "
        f"{format_count(removed['files'], 'file')}, and with them "
        f"{format_count(len(removed['snapshots']), 'snapshot')} and "
        f"{format_count(len(removed['runs']), 'training run')}"
    )


def _remove_derived(store: Store, runs: list[str]) -> None:
    for one in store.of_every_question():
        home = one.runs.parent
        for path in [*map(home.joinpath, REMOVED), *map(one.runs.joinpath, runs)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if read_json(one.latest_run, default={}, run=str).get("run") in runs:
            one.latest_run.unlink()


def _rebuild(
    store: Store, lock: int, requested: dict
) -> tuple[snapshot.Snapshot | None, str | None]:
    """Build, audit and publish all tables from the raw files that are left.

    The warehouse file goes first, because an old file would keep what was deleted. A tenant that is
    held back keeps its last rows only where they cannot be about whom the erasure is. Returns the
    snapshot, or None and what is critical.
    """
    for path in [store.warehouse, store.warehouse.with_suffix(".duckdb.wal")]:
        path.unlink(missing_ok=True)
    landed = warehouse.land(store)
    read = {
        "landed/catalog.json",
        "landed/nothing.jsonl",
        *(entry.read_from for entry in landed.files),
    }
    for path in store.landed.iterdir():
        if path.relative_to(store.root).as_posix() not in read:
            path.unlink()
    warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))
    reasons, critical = held.find_held(store, audit.audit(store))
    if critical:
        return None, f"{critical[0].table} fails the expectation {critical[0].expectation!r}"
    facts = {"code": warehouse.code_fingerprint()}
    sql, keeps_last = warehouse.feature_sql(store), requested["tenant"] not in (None, *reasons)
    published, _ = snapshot.publish(store, facts, sql, {}, reasons, keeps_last)
    return published, None


def _remove_what_names_tenants(store: Store, models: list[str], tenant: str | None) -> list[str]:
    """Remove incidents and the models that learned from the tenant; return those that serve.

    Cards and reports of a gate judge each tenant by name. A model that serves stays, unless it is
    the tenant's own.
    """
    serves = []
    for one in store.of_every_question():
        (one.monitor / "alerts.json").unlink(missing_ok=True)
        _remove_own_models(one, tenant or "")
    for model in models:
        one, owner, version = _find_model(store, model)
        pointers = [*one.models.glob("*/champion.json"), one.experiment]
        read = [pointer for path in pointers if (pointer := read_json(path, version=str))]
        if version in {pointer["version"] for pointer in read}:
            serves.append(model)
        elif one.bundle(owner, version).exists():
            champion.remove(one, owner, [version])
        for report in one.models.glob(f"{owner}/{version}-gate.*"):
            report.unlink()
    return serves


def _remove_own_models(store: Store, tenant: str) -> None:
    """Remove the tenant's own models, the decisions about it, and the reason for its model."""
    if re.fullmatch(TENANT_ID, tenant) and tenant != SHARED:
        shutil.rmtree(store.models / tenant, ignore_errors=True)
    if deployed := read_json(store.tenant_decisions, decisions=dict):
        deployed["decisions"].pop(tenant, None)
        write_json(store.tenant_decisions, deployed)


def _find_model(store: Store, name: str) -> tuple[Store, str, str]:
    """The store, owner and version of a model as the plan names it."""
    *home, owner, version = name.split("/")
    return store.of(home[-1] if home else ""), owner, version


def _rewrite(path: Path, lines: set[int]) -> None:
    """The file without these records, numbered as the landing numbers them; whole or not at all.

    Records that stay keep their bytes (Parquet: their values), but the objects of a JSON array are
    written one to a line. A link's own file is rewritten.
    """
    if not lines:
        path.resolve().unlink()  # it cannot be read, and names them
        path.unlink(missing_ok=True)
        return
    with replacing(path.resolve()) as draft:
        if records.format_of(path)[0] == ".parquet":
            source = f"read_parquet('{quoted(glob.escape(str(path)))}', hive_partitioning = false)"
            place = unused_name("place", duckdb.sql(f"from {source}").columns)
            numbered = f"(select *, row_number() over () as {place} from {source})"
            rows = f"select * exclude {place} from {numbered} where {place} not in {(0, *lines)}"
            duckdb.execute(f"copy ({rows}) to '{quoted(draft)}' (format parquet)")
        else:
            kept = (each for number, each in numbered_records(path) if number not in lines)
            with records.open_raw(path, "wb", draft) as file:
                file.writelines(kept)


def unknown_files(store: Store) -> list[str]:
    """What lies below `data/` and is not this project's: an erasure does not look at it."""
    own = OTHERS | {name.partition("/")[0] for name in REMOVED}
    return sorted(
        path.name for path in store.root.iterdir() if path.name not in own and path.name[0] != "."
    )


def format_summary(report: dict, unknown: list[str]) -> str:
    """What an erasure removed, and which models learned from it, as lines for the terminal."""
    return join_lines(_lines_of(report, unknown))


def _lines_of(report: dict, unknown: list[str]) -> Iterable[str]:
    yield f"removed: {_format_removed(report)}"
    yield "removed, as they could name them: all scores, pages, logs and Metaflow's runs"
    if unknown:
        yield f"not looked at: {', '.join(unknown)} in data/, which this project did not write"
    if report["bucket"]:
        yield f"in the bucket: {report['bucket']}"
        yield "other machines: remove data/ there; the next command pulls what is left"
    for model in report["cards"]:
        *home, owner, version = model.split("/")
        folder = "/".join(["data", *home, "models", owner, version])
        yield (
            f"{model} serves, and its card names them: run `make train deploy`, "
            f"then `rm -r {folder}*`"
        )
    learned = ", ".join(report["models"])
    yield (
        f"learned from them: {learned}; `make train deploy` makes a model that did not"
        if learned
        else "no model learned from them"
    )
    latest = f"snapshot {report['snapshot']} is the latest"
    yield f"erase: {report['what']} erased; {latest}; recorded in data/erasures.jsonl"
