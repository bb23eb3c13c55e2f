"""What an erasure removes: the raw records about a tenant or person and all made from them."""

import gzip
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import duckdb

from jollyboat.bundles.features import whole_number
from jollyboat.landing import records
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, UserError, hash_file, hash_text, quoted, read_json
from jollyboat.warehouse import warehouse

# Records; a prediction and a judgement have in the payload the ids that others have in columns.
RECORDS = """
select * exclude (body) replace (
    coalesce(anonymous_id, body ->> 'anonymous_id') as anonymous_id,
    coalesce(user_id, body ->> 'user_id') as user_id,
    coalesce(session_id, body ->> 'entity_id') as session_id
)
from (
    select
        *,
        case
            when source in ({feedback}) and json_valid(payload) then cast(payload as json)
        end as body
    from {source}
)
"""
# The ids of the person; the sessions, orders and events that carry one of them; all their records.
# A snapshot and a prediction log of an older version may have a whole number as "7.0".
RECORDS_ABOUT = """
create temp table people as
select tenant_id, id_kind, id from warehouse.int_identities
where (tenant_id, person_id) in (
    select tenant_id, person_id from warehouse.int_identities
    where ($person is null or $person in (id, person_id))
        and ($tenant is null or tenant_id = $tenant)
)
union
select tenant_id, id_kind, id from (
    select tenant_id, 'anonymous' as id_kind, anonymous_id as id from records
    union all select tenant_id, 'user', user_id from records
)
where tenant_id is not null and id is not null
and ($person is null or id = $person) and ($tenant is null or tenant_id = $tenant);
create temp table carriers as
select tenant_id, session_id, order_id, source, event_id from (
    select tenant_id, session_id, order_id, source, event_id, anonymous_id, user_id
    from warehouse.events
    union all
    select tenant_id, session_id, order_id, source, event_id, anonymous_id, user_id from records
)
where ($person is null and tenant_id = $tenant)
    or (tenant_id, 'anonymous', anonymous_id) in (select (tenant_id, id_kind, id) from people)
    or (tenant_id, 'user', user_id) in (select (tenant_id, id_kind, id) from people);
create temp table ids as
select tenant_id, id_kind as kind, id from people
union select tenant_id, 'session', session_id from carriers
union select tenant_id, 'event of ' || source, event_id from carriers
union select tenant_id, 'order', order_id from carriers;
delete from ids where id is null;
insert into ids
select tenant_id, kind, id || '.0' from ids where regexp_full_match(id, '-?[0-9]+');
create temp table erased as
select file, line_number from records as r
where ($person is null and tenant_id = $tenant) or {carries_an_id}
"""
# Another source may use an event's id for something else.
CARRIES_AN_ID = " or ".join(
    f"(r.tenant_id, {kind}, r.{column}) in (select (tenant_id, kind, id) from ids)"
    for kind, column in {
        "'anonymous'": "anonymous_id",
        "'user'": "user_id",
        "'session'": "session_id",
        "'event of ' || r.source": "event_id",
        "'order'": "order_id",
    }.items()
)
# Lines of which nobody can read whose they are.
UNREADABLE = """
select file, line_number, line from records
where line is not null and (tenant_id is null or reason = 'malformed_tenant')
"""
# A damaged file goes whole, so not for a short id, which may be any number in it.
SHORTEST = 6
TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s",;:{}\[\]\\]+)')


def plan(store: Store, requested: dict) -> dict:
    """What a request removes; UserError where there is nothing, or it cannot be removed now."""
    if not store.warehouse.exists():
        raise UserError(
            "No table is built yet, so nobody's ids can be looked up. "
            "Run `make data`, then the same command again."
        )
    landed = warehouse.land(store)
    if read_json(store.dbt / "built.json", default={}).get("landed") != landed.fingerprint:
        raise UserError(
            "Not all raw files are in the tables yet. Run `make data`, then the same command again."
        )
    with duckdb.connect() as connection:
        connection.execute(f"attach '{quoted(store.warehouse)}' as warehouse (read_only)")
        lines, names = _records_about(store, connection, requested)
        snapshots = sorted(
            each.id for each in snapshot.all_of(store) if _holds(connection, each, requested)
        )
    damaged = [
        entry.file for entry in landed.files if entry.damage and (store.root / entry.file).is_file()
    ]
    long_names = {name for name in names if len(name) >= SHORTEST}
    lines |= {name: [] for name in damaged if _file_names(store.root / name, long_names)}
    _refuse_what_cannot_be_removed(store, lines, names)
    settings = {path.parent.name: read_json(path) for path in store.runs.glob("*/settings.json")}
    runs = sorted(run for run, each in settings.items() if each.get("snapshot") in snapshots)
    made = [
        path.parent
        for path in store.models.glob("*/*/manifest.json")
        if read_json(path).get("run") in runs
    ]
    return {
        "requested": requested,
        "files": {
            name: {"sha256": hash_file(store.root / name), "lines": each}
            for name, each in lines.items()
        },
        "snapshots": snapshots,
        "runs": runs,
        "models": sorted(f"{bundle.parent.name}/{bundle.name}" for bundle in made),
    }


def _records_about(
    store: Store, connection: duckdb.DuckDBPyConnection, requested: dict
) -> tuple[dict[str, list[int]], set[str]]:
    """The lines of each file about them, and their names; also unreadable lines that name them."""
    person = requested["person"]
    kept_as = person and whole_number(person)
    if person and "@" in person:
        kept_as = hash_text(person, store.read_salt())
    connection.execute(f"create temp view records as {_records('warehouse.int_records')}")
    for statement in RECORDS_ABOUT.format(carries_an_id=CARRIES_AN_ID).strip().split(";\n"):
        _run(connection, statement, requested | {"person": kept_as})
    by_file = "select file, list(distinct line_number) from erased group by file"
    lines: dict[str, list[int]] = dict(connection.sql(by_file).fetchall())
    if not lines:
        raise UserError(
            f"Nothing is known of {' '.join(filter(None, requested.values()))}; "
            "there is nothing to erase."
        )
    names = {
        one
        for (one,) in connection.sql("select distinct id from ids where kind != 'order'").fetchall()
    }
    names |= {person, kept_as} if person else {requested["tenant"]}
    for file, number, line in connection.sql(UNREADABLE).fetchall():
        if number not in lines.get(file, []) and _text_names(line, names):
            lines.setdefault(file, []).append(number)
            connection.execute("insert into erased values (?, ?)", [file, number])
    return {file: sorted(numbers) for file, numbers in lines.items()}, names


def _records(source: str) -> str:
    _, feedback = warehouse.source_names()
    return RECORDS.format(
        source=source, feedback=", ".join(f"'{quoted(each)}'" for each in ["", *feedback])
    )


def _run(
    connection: duckdb.DuckDBPyConnection, statement: str, values: dict
) -> duckdb.DuckDBPyConnection:
    return connection.execute(
        statement, {name: value for name, value in values.items() if f"${name}" in statement}
    )


def _holds(connection: duckdb.DuckDBPyConnection, one: snapshot.Snapshot, requested: dict) -> bool:
    """Whether a snapshot was made from a record about them."""
    where = CARRIES_AN_ID if requested["person"] else "tenant_id = $tenant"
    events = f"select 1 from ({_records(one.scan('events'))}) as r where {where} limit 1"
    quarantined = one.scan("quarantined_events")
    unreadable = f"select 1 from {quarantined} semi join erased using (file, line_number) limit 1"
    return bool(
        _run(connection, events, requested).fetchall() or connection.execute(unreadable).fetchall()
    )


def _refuse_what_cannot_be_removed(store: Store, files: Iterable[str], names: set[str]) -> None:
    for path in store.live.glob("*.jsonl"):
        if _file_names(path, names):
            raise UserError(
                f"A server is writing about them ({path.name}). Stop it, run `make data`, then the "
                "same command again."
            )
    for path in map(store.root.joinpath, files):
        folder = path.resolve().parent
        if not os.access(folder, os.W_OK):
            raise UserError(
                f"{path} names them, and {folder} cannot be written. Run `chmod u+w {folder}`, or "
                "put a copy of the file in place of the link, then run the same command again."
            )


def _file_names(path: Path, names: set[str]) -> bool:
    """Whether a file names them by its text; true where it is zipped and cannot be unzipped."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError):
            return True
    if content.startswith((b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):  # bzip2, xz, Zstandard
        return True
    encoding = "utf-16" if content.startswith(records.UTF_16) else "utf-8"
    return _text_names(content.decode(encoding, "replace"), names)


def _text_names(text: str, names: set[str]) -> bool:
    """Whether a text has one of the names between quotes, or between spaces and punctuation."""
    tokens = TOKEN.findall(text)
    return any(
        not names.isdisjoint((word, between, _unescaped(between))) for between, word in tokens
    )


def _unescaped(text: str) -> str:
    try:
        return json.loads(f'"{text}"')
    except ValueError:
        return text
