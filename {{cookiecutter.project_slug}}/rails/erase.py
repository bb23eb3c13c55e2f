"""Everything about a tenant or a person goes: raw lines, tables, snapshots, runs' rows, scores, pages, artifacts.

What is to go is planned from the built warehouse, kept in `data/.erasing.json` until all of it is done, so that the
same command finishes what a kill left, and searched for in the end. `data/erasures.jsonl` records it without the ids.
"""

import argparse
import csv
import glob
import gzip
import json
import os
import re
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from rails import audit, landing, records, snapshot, warehouse
from rails.errors import Refused
from rails.store import Store, default_store, hash_file, hash_text, quoted, read_json, write_json, write_text

WORD = "[A-Za-z0-9_.@+-]+"
TOKEN = "[A-Za-z0-9_.@+-]{6,}"  # shorter ids are removed by their columns alone: as text they would be found anywhere
# What the rest is made from, and bundles, which hold no rows about anyone.
SOURCES_OF_TRUTH = ("raw", "live", "landed", "tables", "snapshots", "models", "warehouse.duckdb")
# The ids that the person goes by, then the sessions, orders and events that carry one of them.
PEOPLE = """
create temp table people as
select tenant_id, id from warehouse.int_identities
where (tenant_id, person_id) in (
    select tenant_id, person_id from warehouse.int_identities
    where ($person is null or $person in (id, person_id)) and ($tenant is null or tenant_id = $tenant)
);
create temp table carried as
select tenant_id, session_id, order_id, event_id, anonymous_id, user_id from warehouse.events as e
where ($person is null and e.tenant_id = $tenant)
    or exists (select 1 from people as p where p.tenant_id = e.tenant_id and p.id in (e.anonymous_id, e.user_id));
create temp table known as
select tenant_id, id, true as is_told from people
union select tenant_id, unnest([session_id, event_id]), true from carried
union select tenant_id, order_id, false from carried where order_id is not null;
delete from known where id is null;
create temp table told as select distinct id from known where is_told and length(id) >= 6;
"""
LINES = """
select file, list(distinct line_number order by line_number) as lines from (
    select file, line_number from warehouse.int_records as r
    where ($person is null and tenant_id = $tenant)
        or exists (
            select 1 from known as k where k.tenant_id = r.tenant_id
            and k.id in (r.anonymous_id, r.user_id, r.session_id, r.order_id, r.event_id)
        )
    union all
    select file, line_number from (
        select file, line_number, unnest(regexp_extract_all(concat_ws(' ', line, payload), $token)) as token
        from warehouse.int_records where reason is not null or $person is not null
    ) where token in (select id from told) or ($person is null and token = $tenant)
) group by file
"""


def erase(store: Store, tenant: str | None, person: str | None) -> dict:
    """Remove every record about a tenant, or about a person (by any id, of one tenant or of all); what was removed.

    Raises Refused where nothing is known of them, where another erasure is unfinished, where a server is writing about
    them right now, or where they are still found in the end.
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
        ids = {*plan["ids"], *([tenant] if not person else [])}
        published = _rebuild(store, lock)
        snapshot.remove(store, [each for each in plan["snapshots"] if each != published.id])
        _remove_derived(store, ids)
        if left := find(store, set(plan["ids"])):
            raise Refused(f"Still named in {', '.join(map(str, left[:20]))}; run the same command again.")
    told = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": "person" if person else "tenant",
        "records": sum(len(one["lines"]) for one in plan["files"].values()),
        "files": len(plan["files"]),
        "snapshots": plan["snapshots"],
        "snapshot": published.id,
        "models": plan["models"],
    }
    with store.erasures.open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    store.erasing.unlink()
    return told


def find(store: Store, ids: set[str]) -> list[Path]:
    """The files below `data/` that hold one of the ids, decoded: Parquet, DuckDB, gzip, artifacts and texts alike.

    Bundles are left out: they hold no rows about anyone.
    """
    files = [path for path in sorted(store.root.rglob("*")) if path.is_file() and path != store.erasing]
    return [path for path in files if store.models not in path.parents and _holds(path, ids)]


def _plan(store: Store, asked: dict) -> dict:
    if not store.warehouse.exists():
        raise Refused("Nothing is built yet, so that nobody's ids are known: `make data`, then the same command again.")
    landed = {entry.file: entry for entry in landing.land(store, *warehouse.source_names()).files}
    with duckdb.connect() as connection:
        connection.execute(f"attach '{quoted(store.warehouse)}' as warehouse (read_only)")
        built = connection.sql("select file, sha256 from warehouse.landed_files").fetchall()
        if set(built) != {(name, entry.sha256) for name, entry in landed.items()}:
            raise Refused("Not all raw files are in the tables yet: `make data`, then the same command again.")
        kept = asked | {"person": _as_kept(store, asked["person"])}
        for statement in PEOPLE.strip().split(";\n"):
            names = {name: value for name, value in kept.items() if f"${name}" in statement}
            connection.execute(statement, names)
        files = dict(connection.execute(LINES, kept | {"token": TOKEN}).fetchall())
        ids = {token for (token,) in connection.sql("select id from told").fetchall()}
    plain = {value for value in asked.values() if value}
    damaged = [name for name, entry in landed.items() if entry.damage and _holds(store.root / name, ids | plain)]
    files |= {name: [] for name in damaged}
    if held := [path for path in store.live.glob("*.jsonl") if _holds(path, ids | plain)]:
        raise Refused(f"A server is writing about them ({held[0].name}); stop it, `make data`, then this again.")
    if not files:
        raise Refused(f"Nothing is known of {' '.join(plain)}; there is nothing to erase.")
    holding = [each for each in snapshot.all_of(store) if _is_about(each, ids, asked)]
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


def _is_about(one: snapshot.Snapshot, ids: set[str], asked: dict) -> bool:
    if not asked["person"]:
        return bool(one.relation("events").filter(f"tenant_id = '{quoted(asked['tenant'])}'").limit(1).fetchall())
    return any(_holds(path, ids) for table in one.manifest["tables"] for path in one.files(table))


def _rebuild(store: Store, lock: int) -> snapshot.Snapshot:
    """All tables from what is left of the raw files, audited and published; an old file would keep what was deleted."""
    for path in [store.warehouse, store.warehouse.with_suffix(".duckdb.wal"), store.dbt / "built.json"]:
        path.unlink(missing_ok=True)
    landed = landing.land(store, *warehouse.source_names())
    read = {entry.read_from for entry in landed.files} | {"landed/nothing.jsonl"}
    for path in store.landed.glob("*.jsonl"):
        if path.relative_to(store.root).as_posix() not in read:
            path.unlink()
    warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landed.generation))
    if critical := [each for each in audit.audit(store) if each.stops]:
        raise Refused(f"What is left is not to be published: {critical[0].expectation}; mend it, then this again.")
    facts = {"code": warehouse.code_fingerprint()}
    return snapshot.publish(store, facts, warehouse.compiled(store, "features_at_point"), {})[0]


def _rewrite(path: Path, lines: set[int]) -> None:
    """The file without these records, numbered as the landing numbers them; whole or not at all."""
    if not lines:
        path.unlink()  # it cannot be read, and names them
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    if path.suffix == ".parquet":
        source = f"read_parquet('{quoted(glob.escape(str(path)))}', hive_partitioning = false)"
        numbered = f"(select *, row_number() over () as place from {source})"
        rows = f"select * exclude place from {numbered} where place not in {(0, *lines)}"
        duckdb.execute(f"copy ({rows}) to '{quoted(draft)}' (format parquet)")
    else:
        kept = _csv_without(path, lines) if records.is_csv(path) else _lines_without(path, lines)
        with gzip.open(draft, "wb") if path.suffix == ".gz" else draft.open("wb") as file:
            file.writelines(kept)
    draft.replace(path)


def _lines_without(path: Path, lines: set[int]) -> Iterable[bytes]:
    with records.open_raw(path) as file:
        yield from (line for number, line in enumerate(file, 1) if number not in lines)


def _csv_without(path: Path, lines: set[int]) -> Iterable[bytes]:
    with records.open_raw(path) as file:
        header = next(file)
    yield header
    delimiter = max(",;\t|", key=header.decode("utf-8", "replace").count)
    for number, record in enumerate(records.csv_records(path), 1):
        if number not in lines:
            row = json.loads(record) if record else []
            yield (row[1] + "\n" if isinstance(row, list) and row else _csv_line(row, delimiter)).encode()


def _csv_line(row: dict, delimiter: str) -> str:
    echo = type("Echo", (), {"write": staticmethod(lambda text: text)})
    return csv.writer(echo, delimiter=delimiter, lineterminator="\n").writerow(list(row.values()) if row else [])


def _remove_derived(store: Store, ids: set[str]) -> None:
    """What can be made again goes whole where it names them (scores, Metaflow's artifacts of a flow), else in part."""
    for folder in [*store.scores.glob("*/"), *(store.root / ".metaflow").glob("*/")]:
        if any(_holds(path, ids) for path in folder.rglob("*") if path.is_file()):
            shutil.rmtree(folder)
    for path in [path for path in store.root.rglob("*") if path.is_file() and path != store.erasing]:
        if path.relative_to(store.root).parts[0] not in SOURCES_OF_TRUTH and _holds(path, ids):
            _scrub(path, ids)


def _scrub(path: Path, ids: set[str]) -> None:
    """Rows, lines and JSON's items that name them go; a page or a log goes whole."""
    if path.suffix == ".json":
        write_json(path, _without(read_json(path), ids))
    elif path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if ids.isdisjoint(re.findall(WORD, line))))
    elif path.suffix == ".parquet":
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with duckdb.connect() as connection:
            connection.execute("create table ids as select unnest($ids) as token", {"ids": sorted(ids)})
            about = f"list_has_any(regexp_extract_all(cast(t as varchar), '{WORD}'), (select list(token) from ids))"
            rows = f"from read_parquet('{quoted(path)}') as t where not {about}"
            connection.execute(f"copy ({rows}) to '{quoted(draft)}' (format parquet)")
        draft.replace(path)
    else:
        path.unlink()


def _without(value, ids: set[str]):
    """JSON less every key that names one of the ids, and every list's item that is or has one."""

    def names(one) -> bool:
        told = one.values() if isinstance(one, dict) else [one]
        return any(isinstance(each, str) and each in ids for each in told)

    if isinstance(value, dict):
        return {key: _without(one, ids) for key, one in value.items() if key not in ids and not names(one)}
    return [_without(one, ids) for one in value if not names(one)] if isinstance(value, list) else value


def _holds(path: Path, ids: set[str]) -> bool:
    """Whether a file names one of the ids, as it reads when it is decoded."""
    if path.suffix not in (".parquet", ".duckdb"):
        text = path.read_bytes()
        if text[:2] == b"\x1f\x8b":
            try:
                text = gzip.decompress(text)
            except (OSError, EOFError):
                return True  # it cannot be known
        tokens = {token.decode() for token in re.findall(WORD.encode(), text)}
        # In a pickle a text's length, one byte, may stand before it and look like a letter.
        return not ids.isdisjoint(tokens | {token[1:] for token in tokens})
    with duckdb.connect() as connection:
        connection.execute("create temp table ids as select unnest($ids) as token", {"ids": sorted(ids)})
        scans = [f"read_parquet('{quoted(path)}', hive_partitioning = false)"]
        if path.suffix == ".duckdb":
            connection.execute(f"attach '{quoted(path)}' as built (read_only)")
            tables = connection.sql("select table_name from duckdb_tables() where database_name = 'built'").fetchall()
            scans = [f'built."{name}"' for (name,) in tables]
        query = "select 1 from (select unnest(regexp_extract_all(cast(t as varchar), $token)) as token from {} as t) "
        query += "semi join ids using (token) limit 1"
        return any(connection.execute(query.format(scan), {"token": WORD}).fetchall() for scan in scans)


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
