"""Everything about a tenant or a person goes: raw lines, tables, snapshots, runs' rows, scores, pages, artifacts.

What is to go is planned (`erase_plan.py`), kept in `data/.erasing.json` until all of it is done, so that the same
command finishes what a kill left, and searched for in the end. `data/erasures.jsonl` records it without the ids. What
has learned from them is told; of a run it is never changed in part: a candidate that names them goes with its run.
"""

import glob
import gzip
import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import duckdb

from jollyboat.audit import audit
from jollyboat.champions import champion
from jollyboat.erasure import erase_plan
from jollyboat.erasure.naming import Ids
from jollyboat.landing import records
from jollyboat.snapshots import snapshot
from jollyboat.store import (
    Store,
    hash_file,
    quoted,
    read_json,
    replacing,
    write_json,
    write_text,
)
from jollyboat.store.errors import UserError
from jollyboat.warehouse import warehouse

# What the rest is made from, and bundles, which hold no rows about anyone.
SOURCES_OF_TRUTH = ("raw", "live", "landed", "tables", "snapshots", "models", "warehouse.duckdb")
# Of a run, what goes with the whole run or stays as it is: the candidates read each other's features and settings.
LEARNED = ("candidates", "schema.json", "settings.json", "features.sql")
PAGES = (".html", ".csv")


def erase(store: Store, tenant: str | None, person: str | None) -> dict:
    """Remove every record about a tenant, or about a person (by any id, of one tenant or of all); what was removed.

    Raises UserError where nothing is known of them, where another erasure is unfinished, where a server is writing about
    them right now, where they are still found in the end, or, when all is done, where the rest cannot be published.
    """
    asked = {"tenant": tenant, "person": person}
    with warehouse.locked(store) as lock:
        plan = read_json(store.erasing) or erase_plan.plan(store, asked)
        if plan["asked"] != asked:
            named = " ".join(f"--{name} {value}" for name, value in plan["asked"].items() if value)
            raise UserError(
                f"An erasure is not finished: first run `jollyboat erase {named}` again."
            )
        write_json(store.erasing, plan)
        for name, one in plan["files"].items():
            path = store.root / name
            if path.exists() and hash_file(path) == one["sha256"]:
                _rewrite(path, set(one["lines"]))
        published, critical = _rebuild(store, lock)
        snapshot.remove(
            store, [each for each in plan["snapshots"] if not published or each != published.id]
        )
        _remove_derived(store, plan)
        cards = _remove_bundles(store, plan)
        if left := find(store, set(plan["ids"])):
            raise UserError(
                f"Still named in {', '.join(map(str, left[:20]))}; run the same command again. If that does not help, "
                "delete there what is about them; where the word is nobody's id there, delete "
                f"{store.erasing}, and the erasure ends with all else removed."
            )
    told = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": "person" if person else "tenant",
        "records": sum(len(one["lines"]) for one in plan["files"].values()),
        "files": len(plan["files"]),
        "snapshots": plan["snapshots"],
        "snapshot": read_json(store.latest_snapshot, default={}).get("snapshot"),
        "models": plan["models"],
        "cards": cards,
        "as_ids_only": plan["as_ids_only"],
    }
    with store.erasures.open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    store.erasing.unlink()
    if critical:
        raise UserError(
            f"The {told['what']} is erased and every snapshot about them is gone, but what is left is not to be "
            f"published: {critical}. Mend it, then `make data`."
        )
    return told


def find(store: Store, ids: set[str]) -> list[Path]:
    """The files below `data/` that hold one of the ids, decoded: Parquet, DuckDB, gzip, artifacts and texts alike.

    Bundles are left out: they hold no rows about anyone.
    """
    looked_for = Ids(ids)
    files = [
        path for path in sorted(store.root.rglob("*")) if path.is_file() and path != store.erasing
    ]
    return [path for path in files if store.models not in path.parents and looked_for.in_file(path)]


def _rebuild(store: Store, lock: int) -> tuple[snapshot.Snapshot | None, str | None]:
    """All tables from what is left of the raw files (an old file would keep what was deleted), audited and published.

    Where something critical is found there is no snapshot, but what was found.
    """
    for path in [
        store.warehouse,
        store.warehouse.with_suffix(".duckdb.wal"),
        store.dbt / "built.json",
    ]:
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
    if critical := [each for each in audit.audit(store) if each.stops]:
        return None, f"it is not true of {critical[0].table} that {critical[0].expectation}"
    facts = {"code": warehouse.code_fingerprint()}
    return snapshot.publish(store, facts, warehouse.compiled(store, "features_at_point"), {})[
        0
    ], None


def _rewrite(path: Path, lines: set[int]) -> None:
    """The file without these records, numbered as the landing numbers them; whole or not at all.

    Records that stay keep their bytes (Parquet: their values). Of a link it is the file that it leads to.
    """
    if not lines:
        path.resolve().unlink()  # it cannot be read, and names them
        path.unlink(missing_ok=True)
        return
    with replacing(path.resolve()) as draft:
        if path.suffix == ".parquet":
            source = f"read_parquet('{quoted(glob.escape(str(path)))}', hive_partitioning = false)"
            numbered = f"(select *, row_number() over () as place from {source})"
            rows = f"select * exclude place from {numbered} where place not in {(0, *lines)}"
            duckdb.execute(f"copy ({rows}) to '{quoted(draft)}' (format parquet)")
        else:
            kept = (
                _csv_without(path, lines) if records.is_csv(path) else _lines_without(path, lines)
            )
            with gzip.open(draft, "wb") if path.suffix == ".gz" else draft.open("wb") as file:
                file.writelines(kept)


def _lines_without(path: Path, lines: set[int]) -> Iterable[bytes]:
    with records.open_raw(path) as file:
        yield from (line for number, line in enumerate(file, 1) if number not in lines)


def _csv_without(path: Path, lines: set[int]) -> Iterable[bytes]:
    with records.open_raw(path) as file:
        yield next(file)
        for number, (_, span) in enumerate(records.spanned_csv_records(path), 1):
            record = list(islice(file, span))
            if number not in lines:
                yield from record


def _remove_derived(store: Store, plan: dict) -> None:
    """What can be made again goes whole where it names them (scores, Metaflow's artifacts of a flow), else in part."""
    ids, meant, said = (Ids([*plan["ids"], *names]) for names in ([], plan["names"], _tenant(plan)))
    for run in store.runs.glob("*/"):
        learned = [
            path
            for name in LEARNED
            for path in [run / name, *(run / name).rglob("*")]
            if path.is_file()
        ]
        if any(map(ids.in_file, learned)):
            shutil.rmtree(run)
    for folder in [*store.scores.glob("*/"), *(store.root / ".metaflow").glob("*/")]:
        if any(
            said.in_file(path) or _has_rows_about(path, plan)
            for path in folder.rglob("*")
            if path.is_file()
        ):
            shutil.rmtree(folder)
    for path in [
        path for path in store.root.rglob("*") if path.is_file() and path != store.erasing
    ]:
        if _is_derived(path.relative_to(store.root).parts) and (
            said.in_file(path) or _has_rows_about(path, plan)
        ):
            _scrub(path, meant, plan)


def _tenant(plan: dict) -> list[str]:
    return [] if plan["asked"]["person"] else [plan["asked"]["tenant"]]


def _is_derived(parts: tuple[str, ...]) -> bool:
    if parts[0] == "models":
        return len(parts) == 3 and parts[2].endswith(("-gate.json", "-gate.html"))
    return parts[0] not in SOURCES_OF_TRUTH and not (
        parts[0] == "runs" and parts[2:] and parts[2] in LEARNED
    )


def _remove_bundles(store: Store, plan: dict) -> list[str]:
    """Of the bundles that learned from them and name them, those that serve; the others go."""
    said = Ids({*plan["ids"], *_tenant(plan)})
    pointers = [*store.models.glob("*/champion.json"), store.experiment]
    serving = {
        pointer["version"]
        for path in pointers
        if (pointer := read_json(path)) and "version" in pointer
    }
    naming = [
        model
        for model in plan["models"]
        if any(said.in_file(path) for path in (store.models / model).rglob("*") if path.is_file())
    ]
    for owner, version in (model.split("/") for model in naming):
        if version not in serving:
            champion.remove(store, owner, [version])
    return [model for model in naming if model.split("/")[1] in serving]


def _scrub(path: Path, meant: Ids, plan: dict) -> None:
    """Rows, lines and JSON's items that are about them go; a page or a log goes whole."""
    if path.suffix == ".json":
        write_json(path, _without(read_json(path), meant))
    elif path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if not meant.in_text(line)))
    elif path.suffix == ".parquet":
        with duckdb.connect() as connection, replacing(path) as draft:
            source = (
                f"read_parquet('{quoted(path)}', hive_partitioning = false, file_row_number = true)"
            )
            text = f"select file_row_number, cast(t as varchar) as text from {source} as t"
            looked_for = Ids(plan["ids"]) if "tenant_id" in _columns(path) else meant
            about = looked_for.rows(connection, text)
            rows = f"select * exclude file_row_number from {source} where file_row_number not in ({about})"
            connection.execute(
                f"copy ({rows} and not ({_is_about(path, plan)})) to '{quoted(draft)}' (format parquet)"
            )
    elif path.suffix in PAGES or meant.in_file(path):
        path.unlink()


def _has_rows_about(path: Path, plan: dict) -> bool:
    if path.suffix != ".parquet":
        return False
    source = f"read_parquet('{quoted(path)}', hive_partitioning = false)"
    return bool(
        duckdb.execute(f"select 1 from {source} where {_is_about(path, plan)} limit 1").fetchall()
    )


def _is_about(path: Path, plan: dict) -> str:
    """Whether a row of a Parquet file is the tenant's, or of a session that no text tells apart, by its columns."""
    columns = _columns(path)
    told = [f"tenant_id = '{quoted(one)}'" for one in _tenant(plan) if "tenant_id" in columns]
    if {"tenant_id", "entity_id"} <= set(columns):
        told += [
            f"(tenant_id, entity_id) = ('{quoted(one)}', '{quoted(session)}')"
            for one, session in plan["sessions"]
        ]
    return f"coalesce({' or '.join(told) or 'false'}, false)"


def _columns(path: Path) -> list[str]:
    return duckdb.read_parquet(glob.escape(str(path)), hive_partitioning=False).columns


def _without(value, ids: Ids):
    """JSON less every key that names one of the ids, and every list's item that is or has one."""

    def names(one, key: str = "") -> bool:
        told = one if isinstance(one, dict) else {key: one}
        plain = {
            name: str(each) for name, each in told.items() if not isinstance(each, dict | list)
        }
        # A segment's name and value stand side by side, as do a field's: `tenant_id <tenant>`.
        return ids.in_text(
            " ".join([*plain.values(), *(f"\n{name} {each}" for name, each in plain.items())])
        )

    if isinstance(value, dict):
        return {
            key: _without(one, ids)
            for key, one in value.items()
            if not ids.in_text(key) and not names(one, key)
        }
    return (
        [_without(one, ids) for one in value if not names(one)]
        if isinstance(value, list)
        else value
    )


def tell(told: Mapping) -> str:
    """What an erasure removed, and which models had learned from it, as lines for the terminal."""
    lines = [
        f"{told['records']:,} records of {told['files']} files, {len(told['snapshots'])} snapshots that held them, and",
        "every page, score and artifact that named them are gone",
    ]
    if told["as_ids_only"]:
        lines.append(
            f"{told['as_ids_only']:,} of their ids are short, or also stand in others' records or in names of files: "
            "removed where they stand as ids, not looked for as text"
        )
    for model in told["cards"]:
        lines.append(
            f"{model} serves, and its card names them: `make train deploy`, then `rm -r data/models/{model}*`"
        )
    learned = ", ".join(told["models"])
    lines.append(
        f"had learned from them: {learned}; `make train deploy` makes one that has not"
        if learned
        else "no model had learned from them"
    )
    what, snapshot_id = told["what"], told["snapshot"]
    lines.append(
        f"erase: {what} erased; snapshot {snapshot_id} is the latest; recorded in data/erasures.jsonl"
    )
    return "\n".join(lines)
