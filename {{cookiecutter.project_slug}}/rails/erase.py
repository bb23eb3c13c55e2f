"""Everything about a tenant or a person goes: raw lines, tables, snapshots, runs' rows, scores, pages, artifacts.

What is to go is planned from the built warehouse, kept in `data/.erasing.json` until all of it is done, so that the
same command finishes what a kill left, and searched for in the end. `data/erasures.jsonl` records it without the ids.
"""

import argparse
import glob
import gzip
import json
import os
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import duckdb

from rails import audit, landing, records, snapshot, warehouse
from rails.errors import Refused
from rails.naming import Ids
from rails.store import Store, default_store, hash_file, hash_text, quoted, read_json, replacing, write_json, write_text

# What the rest is made from, and bundles, which hold no rows about anyone.
SOURCES_OF_TRUTH = ("raw", "live", "landed", "tables", "snapshots", "models", "warehouse.duckdb")
# The ids that the person goes by, then the sessions, orders and events that carry one of them.
PEOPLE = """
create temp table people as
select tenant_id, id_kind, id from warehouse.int_identities
where (tenant_id, person_id) in (
    select tenant_id, person_id from warehouse.int_identities
    where ($person is null or $person in (id, person_id)) and ($tenant is null or tenant_id = $tenant)
);
create temp table carried as
select tenant_id, session_id, order_id, event_id from warehouse.events
where ($person is null and tenant_id = $tenant)
    or (tenant_id, 'anonymous', anonymous_id) in (select (tenant_id, id_kind, id) from people)
    or (tenant_id, 'user', user_id) in (select (tenant_id, id_kind, id) from people);
create temp table known as
select tenant_id, id_kind as kind, id, true as is_told from people
union select tenant_id, 'session', session_id, true from carried
union select tenant_id, 'event', event_id, true from carried
union select tenant_id, 'order', order_id, false from carried;
delete from known where id is null;
"""
IS_KNOWN = " or ".join(
    f"(r.tenant_id, '{kind}', r.{kind}_id) in (select (tenant_id, kind, id) from known)"
    for kind in ("anonymous", "user", "session", "order", "event")
)
# Shorter ids are removed by their columns alone: as text they would be found anywhere.
TOLD = "select distinct id from known where is_told and length(id) >= 6"
LINES = f"""
select file, list(distinct line_number order by line_number) as lines from (
    select file, line_number from warehouse.int_records as r
    where ($person is null and tenant_id = $tenant) or {IS_KNOWN}
    union all
    {{told}}
) group by file
"""
TEXTS = """
select file, line_number, concat_ws(' ', line, payload) as text from warehouse.int_records
where reason is not null or $person is not null
"""


def erase(store: Store, tenant: str | None, person: str | None) -> dict:
    """Remove every record about a tenant, or about a person (by any id, of one tenant or of all); what was removed.

    Raises Refused where nothing is known of them, where another erasure is unfinished, where a server is writing about
    them right now, where they are still found in the end, or, when all is done, where the rest cannot be published.
    """
    asked = {"tenant": tenant, "person": person}
    with warehouse.locked(store) as lock:
        plan = read_json(store.erasing) or _plan(store, asked)
        if plan["asked"] != asked:
            named = " ".join(f"--{name} {value}" for name, value in plan["asked"].items() if value)
            raise Refused(f"An erasure is not finished: first run `python -m rails.erase {named}` again.")
        write_json(store.erasing, plan)
        for name, one in plan["files"].items():
            path = store.root / name
            if path.exists() and hash_file(path) == one["sha256"]:
                _rewrite(path, set(one["lines"]))
        published, critical = _rebuild(store, lock)
        snapshot.remove(store, [each for each in plan["snapshots"] if not published or each != published.id])
        _remove_derived(store, Ids({*plan["ids"], *([tenant] if not person else [])}))
        if left := find(store, set(plan["ids"])):
            raise Refused(f"Still named in {', '.join(map(str, left[:20]))}; run the same command again.")
    told = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": "person" if person else "tenant",
        "records": sum(len(one["lines"]) for one in plan["files"].values()),
        "files": len(plan["files"]),
        "snapshots": plan["snapshots"],
        "snapshot": read_json(store.latest_snapshot, default={}).get("snapshot"),
        "models": plan["models"],
    }
    with store.erasures.open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    store.erasing.unlink()
    if critical:
        raise Refused(
            f"The {told['what']} is erased and every snapshot about them is gone, but what is left is not to be "
            f"published: {critical}. Mend it, then `make data`."
        )
    return told


def find(store: Store, ids: set[str]) -> list[Path]:
    """The files below `data/` that hold one of the ids, decoded: Parquet, DuckDB, gzip, artifacts and texts alike.

    Bundles are left out: they hold no rows about anyone.
    """
    looked_for = Ids(ids)
    files = [path for path in sorted(store.root.rglob("*")) if path.is_file() and path != store.erasing]
    return [path for path in files if store.models not in path.parents and looked_for.in_file(path)]


def _plan(store: Store, asked: dict) -> dict:
    if not store.warehouse.exists():
        raise Refused("Nothing is built yet, so that nobody's ids are known: `make data`, then the same command again.")
    found = landing.land(store, *warehouse.source_names())
    landed = {entry.file: entry for entry in found.files}
    generation = read_json(store.dbt / "built.json", default={}).get("generation")
    with duckdb.connect() as connection:
        connection.execute(f"attach '{quoted(store.warehouse)}' as warehouse (read_only)")
        built = connection.sql("select file, sha256 from warehouse.landed_files").fetchall()
        read = {(name, entry.sha256) for name, entry in landed.items()}
        if (generation, set(built)) != (found.generation, read):  # or lines may have other numbers by now
            raise Refused("Not all raw files are in the tables yet: `make data`, then the same command again.")
        kept = asked | {"person": _as_kept(store, asked["person"])}
        for statement in PEOPLE.strip().split(";\n"):
            names = {name: value for name, value in kept.items() if f"${name}" in statement}
            connection.execute(statement, names)
        ids = {one for (one,) in connection.sql(TOLD).fetchall()}
        plain = {value for value in asked.values() if value}
        told = Ids(ids | ({asked["tenant"]} if not asked["person"] else set())).rows(connection, TEXTS)
        files = dict(connection.execute(LINES.format(told=told), kept).fetchall())
        looked_for, known = Ids(ids | plain), Ids(ids)
        holding = [each for each in snapshot.all_of(store) if _is_about(connection, each, known, asked)]
    damaged = [name for name, entry in landed.items() if entry.damage and (store.root / name).is_file()]
    files |= {name: [] for name in damaged if looked_for.in_file(store.root / name)}
    if held := [path for path in store.live.glob("*.jsonl") if looked_for.in_file(path)]:
        raise Refused(f"A server is writing about them ({held[0].name}); stop it, `make data`, then this again.")
    if not files:
        raise Refused(f"Nothing is known of {' '.join(plain)}; there is nothing to erase.")
    for path in map(store.root.joinpath, files):
        if not os.access(path.resolve().parent, os.W_OK):
            raise Refused(
                f"{path} names them, and {path.resolve().parent} cannot be written; `chmod u+w` it, or put a copy of "
                "the file in place of a link to it, then the same command again."
            )
    names = sorted(each.id for each in holding)
    settings = {path.parent.name: read_json(path) for path in store.runs.glob("*/settings.json")}
    runs = [run for run, each in settings.items() if each.get("snapshot") in names]
    made = [path for path in store.models.glob("*/*/manifest.json") if read_json(path).get("run") in runs]
    return {
        "asked": asked,
        "ids": sorted(ids | {each for each in plain if "@" in each}),
        "files": {name: {"sha256": hash_file(store.root / name), "lines": lines} for name, lines in files.items()},
        "snapshots": names,
        "models": sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in made),
    }


def _as_kept(store: Store, known_as: str | None) -> str | None:
    """The id as the tables have it: of an address its hash."""
    if not known_as or "@" not in known_as:
        return known_as
    return hash_text(known_as, store.read_salt())


def _is_about(
    connection: duckdb.DuckDBPyConnection, one: snapshot.Snapshot, ids: Ids, asked: dict[str, str | None]
) -> bool:
    if not asked["person"]:
        return bool(one.relation("events").filter(f"tenant_id = '{quoted(asked['tenant'])}'").limit(1).fetchall())
    if connection.execute(f"select 1 from {one.scan('events')} as r where {IS_KNOWN} limit 1").fetchall():
        return True
    return any(ids.in_file(path) for table in one.manifest["tables"] for path in one.files(table))


def _rebuild(store: Store, lock: int) -> tuple[snapshot.Snapshot | None, str | None]:
    """All tables from what is left of the raw files (an old file would keep what was deleted), audited and published.

    Where something critical is found there is no snapshot, but what was found.
    """
    for path in [store.warehouse, store.warehouse.with_suffix(".duckdb.wal"), store.dbt / "built.json"]:
        path.unlink(missing_ok=True)
    landed = landing.land(store, *warehouse.source_names())
    read = {"landed/catalog.json", "landed/nothing.jsonl", *(entry.read_from for entry in landed.files)}
    for path in store.landed.iterdir():
        if path.relative_to(store.root).as_posix() not in read:
            path.unlink()
    warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed))
    if critical := [each for each in audit.audit(store) if each.stops]:
        return None, f"it is not true of {critical[0].table} that {critical[0].expectation}"
    facts = {"code": warehouse.code_fingerprint()}
    return snapshot.publish(store, facts, warehouse.compiled(store, "features_at_point"), {})[0], None


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
            kept = _csv_without(path, lines) if records.is_csv(path) else _lines_without(path, lines)
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


def _remove_derived(store: Store, ids: Ids) -> None:
    """What can be made again goes whole where it names them (scores, Metaflow's artifacts of a flow), else in part."""
    for folder in [*store.scores.glob("*/"), *(store.root / ".metaflow").glob("*/")]:
        if any(ids.in_file(path) for path in folder.rglob("*") if path.is_file()):
            shutil.rmtree(folder)
    for path in [path for path in store.root.rglob("*") if path.is_file() and path != store.erasing]:
        if path.relative_to(store.root).parts[0] not in SOURCES_OF_TRUTH and ids.in_file(path):
            _scrub(path, ids)


def _scrub(path: Path, ids: Ids) -> None:
    """Rows, lines and JSON's items that name them go; a page or a log goes whole."""
    if path.suffix == ".json":
        write_json(path, _without(read_json(path), ids))
    elif path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if not ids.in_text(line)))
    elif path.suffix == ".parquet":
        with duckdb.connect() as connection, replacing(path) as draft:
            source = f"read_parquet('{quoted(path)}', hive_partitioning = false, file_row_number = true)"
            about = ids.rows(connection, f"select file_row_number, cast(t as varchar) as text from {source} as t")
            rows = f"select * exclude file_row_number from {source} where file_row_number not in ({about})"
            connection.execute(f"copy ({rows}) to '{quoted(draft)}' (format parquet)")
    else:
        path.unlink()


def _without(value, ids: Ids):
    """JSON less every key that names one of the ids, and every list's item that is or has one."""

    def names(one) -> bool:
        told = one.values() if isinstance(one, dict) else [one]
        return any(ids.in_text(str(each)) for each in told if not isinstance(each, dict | list))

    if isinstance(value, dict):
        return {key: _without(one, ids) for key, one in value.items() if not ids.in_text(key) and not names(one)}
    return [_without(one, ids) for one in value if not names(one)] if isinstance(value, list) else value


def main(arguments: list[str] | None = None) -> None:
    """Remove every record about a tenant or a person, and say which models had learned from them."""
    parser = argparse.ArgumentParser(prog="python -m rails.erase", description=main.__doc__)
    parser.add_argument("--tenant", help="all of a tenant; with --person, the person of this tenant alone")
    parser.add_argument("--person", help="any id of theirs, of an account or a device: linked ones go, too")
    asked = parser.parse_args(arguments)
    if not asked.tenant and not asked.person:
        parser.error("name a --tenant or a --person")
    try:
        told = erase(default_store(), asked.tenant or None, asked.person or None)
    except Refused as refusal:
        raise SystemExit(str(refusal)) from None
    learned = ", ".join(told["models"])
    print(
        f"{told['records']:,} records of {told['files']} files, {len(told['snapshots'])} snapshots that held them, and"
    )
    print("every page, score and artifact that named them are gone")
    print(
        f"had learned from them: {learned}; `make train deploy` makes one that has not"
        if learned
        else "no model had learned from them"
    )
    print(f"erase: {told['what']} erased; snapshot {told['snapshot']} is the latest; recorded in data/erasures.jsonl")


if __name__ == "__main__":
    main()
