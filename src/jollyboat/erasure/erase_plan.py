"""What an erasure removes: the raw records about a tenant or person and all made from them."""

import gzip
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from jollyboat.bundles.features import whole_number
from jollyboat.erasure.address import Address
from jollyboat.erasure.raw_records import numbered_records
from jollyboat.landing import records
from jollyboat.landing.landing import Landing, raw_paths
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, UserError, hash_addresses, hash_file, quoted, read_json
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
# The ids of the person with all that are linked to them. $person has a hash for each way in which
# the logs write an address. An address that is nobody's id leads to the people whose records have
# it in a text.
PEOPLE = """
create temp table people as
select tenant_id, id_kind, id from warehouse.int_identities
where (tenant_id, person_id) in (
    select tenant_id, person_id from warehouse.int_identities
    where ($person is null or list_has_any($person, [id, person_id]))
        and ($tenant is null or tenant_id = $tenant)
)
union
select tenant_id, id_kind, id from (
    select tenant_id, 'anonymous' as id_kind, anonymous_id as id from records
    union all select tenant_id, 'user', user_id from records
)
where tenant_id is not null and id is not null
and ($person is null or list_contains($person, id)) and ($tenant is null or tenant_id = $tenant);
insert into people
select tenant_id, id_kind, id from warehouse.int_identities
where (tenant_id, person_id) in (
    select identities.tenant_id, identities.person_id
    from warehouse.int_identities as identities
    inner join records as r
        on identities.tenant_id = r.tenant_id
        and ((id_kind = 'user' and id = r.user_id) or (id_kind = 'anonymous' and id = anonymous_id))
    where {has_address} and not exists (from people)
)
"""
LINKED = """
from people where not list_has_any($person, [id, left(id_kind, 1) || ':' || id])
"""
# The sessions, orders and events that carry one of the ids; all their records.
RECORDS_ABOUT = """
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
where ($person is null and tenant_id = $tenant) or {carries_an_id} or {has_address}
"""
# An address is also found in texts: the raw lines that have it are in `addressed`. A snapshot may
# have the hash, which is no other word, of a line that is gone.
HAS_ADDRESS = """(
    $address is not null and ($tenant is null or r.tenant_id = $tenant)
    and (
        (r.file, r.line_number) in (select (file, line_number) from addressed)
        or regexp_matches(cast(r as varchar), $address)
    )
)"""
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
select file, list(line_number) from records
where reason is not null and (tenant_id is null or reason = 'malformed_tenant') group by file
"""
# A damaged file goes whole, so not for a short id, which may be any number in it.
SHORTEST = 6
MOST_LINKED = 20
TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s",;:{}\[\]\\]+)')


def plan(store: Store, requested: dict, linked: str | None) -> dict:
    """What a request removes; UserError where there is nothing, or it cannot be removed now.

    `linked` says whether records of linked ids go too: "erase" or "keep". None is a UserError that
    lists them.
    """
    landed = _land_what_is_built(store)
    paths = raw_paths(store, {entry.source for entry in landed.files})
    person, salt = requested["person"], store.read_salt()
    plain = person and whole_number(person)
    kept_as = plain and hash_addresses(plain, salt)
    address = Address(plain) if kept_as != plain else None
    addressed, hashes = _find_address(store, landed, paths, address)
    ids = sorted({kept_as, *hashes}) if person else None
    values = requested | {"given": person, "person": ids}
    values["address"] = address and "|".join(map(re.escape, ids))
    with duckdb.connect() as connection:
        connection.execute(f"attach '{quoted(store.warehouse)}' as warehouse (read_only)")
        _write_addressed(connection, addressed)
        lines = _lines_about(connection, values, linked)
        names = {person, *_names(connection, values)} - {None}
        if lines or address:  # any other word may be in an unreadable line by chance
            for file, numbers in _unreadable_lines(store, connection, landed, names).items():
                lines[file] = sorted({*lines.get(file, []), *numbers})
        named = {name: _names_of(path.relative_to(store.root)) for name, path in paths.items()}
        lines |= {name: [] for name in paths if address and address.is_in(named[name])}
        if not lines:
            raise UserError(
                f"Nothing is known of {' '.join(filter(None, requested.values()))}; "
                "there is nothing to erase."
            )
        snapshots = sorted(
            each.id for each in snapshot.all_of(store) if _holds(connection, each, values)
        )
    damaged = [entry.file for entry in landed.files if entry.damage and paths[entry.file].is_file()]
    long_names = {name for name in names if len(name) >= SHORTEST}
    lines |= {name: [] for name in damaged if _file_names(paths[name], long_names, address)}
    lines = {paths[name].relative_to(store.root).as_posix(): each for name, each in lines.items()}
    _refuse_what_cannot_be_removed(store, lines, names)
    runs, models = _made_from(store, snapshots)
    return {
        "requested": requested,
        "files": {
            name: {"sha256": hash_file(store.root / name), "lines": each}
            for name, each in lines.items()
        },
        "snapshots": snapshots,
        "runs": runs,
        "models": models,
    }


def _land_what_is_built(store: Store) -> Landing:
    """The files that have landed; UserError unless the tables are built from them."""
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
    return landed


def _write_addressed(
    connection: duckdb.DuckDBPyConnection, addressed: Mapping[str, list[int]]
) -> None:
    """Write the lines that have the person's address into the table `addressed`."""
    connection.execute("create temp table addressed (file varchar, line_number bigint)")
    rows = "insert into addressed select $file, unnest(cast($numbers as bigint[]))"
    for file, numbers in addressed.items():
        connection.execute(rows, {"file": file, "numbers": numbers})


def _made_from(store: Store, snapshots: list[str]) -> tuple[list[str], list[str]]:
    """The runs that learned from these snapshots, and the models of these runs.

    A model whose snapshot an earlier erasure has removed may have learned from anybody.
    """
    stores = store.of_every_question()
    runs = sorted(
        path.parent.name
        for one in stores
        for path in one.runs.glob("*/settings.json")
        if read_json(path).get("snapshot") in snapshots
    )
    models = sorted(
        _name_of(path.parent, store)
        for one in stores
        for path in one.models.glob("*/*/manifest.json")
        if (about := read_json(path)).get("run") in runs
        or not (store.snapshots / about.get("snapshot", "none")).exists()
    )
    return runs, models


def _name_of(bundle: Path, store: Store) -> str:
    """owner/version, for another question than the first after questions/<name>/."""
    home = bundle.parents[2].relative_to(store.root)
    return (home / bundle.parent.name / bundle.name).as_posix()


def _find_address(
    store: Store, landed: Landing, paths: Mapping[str, Path], address: Address | None
) -> tuple[dict[str, list[int]], set[str]]:
    """The raw records of each file that have the address, and its hashes in the tables."""
    numbers_by_file: dict[str, list[int]] = {}
    hashes: set[str] = set()
    for entry in landed.files if address else []:
        if entry.read_from is None:
            continue
        path = paths[entry.file]
        if records.format_of(path)[0] == ".parquet":
            path = store.root / entry.read_from
        for number, content in numbered_records(path):
            text = content.decode("utf-8", "replace")
            if address.is_in(text):
                numbers_by_file.setdefault(entry.file, []).append(number)
                hashes.update(address.hashes(text, store.read_salt()))
    return numbers_by_file, hashes


def _lines_about(
    connection: duckdb.DuckDBPyConnection, values: dict, linked: str | None
) -> dict[str, list[int]]:
    """The lines of each file about them; UserError that lists linked ids if `linked` is None."""
    connection.execute(f"create temp view records as {_records('warehouse.int_records')}")
    parts = {"carries_an_id": CARRIES_AN_ID, "has_address": HAS_ADDRESS}
    for statement in PEOPLE.format(**parts).strip().split(";\n"):
        _run(connection, statement, values)
    ids = _run(connection, f"select distinct id {LINKED} order by id", values).fetchall()
    if ids and linked is None:
        names = ", ".join(name for (name,) in ids[:MOST_LINKED])
        more = f" and {len(ids) - MOST_LINKED} more" if len(ids) > MOST_LINKED else ""
        raise UserError(
            f"{len(ids)} more ids are linked to {values['given']}: {names}{more}. Nothing is "
            "erased yet. Run the same command with `--linked erase` to erase their records too, "
            "or with `--linked keep` to erase only what carries the id itself."
        )
    if linked == "keep":
        _run(connection, f"delete {LINKED}", values)
    for statement in RECORDS_ABOUT.format(**parts).strip().split(";\n"):
        _run(connection, statement, values)
    by_file = "select file, list(line_number order by line_number) from erased group by file"
    return dict(connection.sql(by_file).fetchall())


def _names(connection: duckdb.DuckDBPyConnection, values: dict) -> set[str]:
    """The words that name them in a text."""
    ids = connection.sql("select distinct id from ids where kind != 'order'").fetchall()
    return {name for (name,) in ids} | set(values["person"] or [values["tenant"]])


def _unreadable_lines(
    store: Store, connection: duckdb.DuckDBPyConnection, landed: Landing, names: set[str]
) -> dict[str, list[int]]:
    """The unreadable lines of each file that name them, which are then also in `erased`."""
    read_from = {entry.file: entry.read_from for entry in landed.files}
    lines, salt = {}, store.read_salt()
    for file, numbers in connection.sql(UNREADABLE).fetchall():
        wanted = set(numbers)
        with records.open_raw(store.root / read_from[file]) as raw:
            for number, content in enumerate(raw, 1):
                if number not in wanted:
                    continue
                text = content.decode("utf-8", "replace")
                if read_from[file].startswith("landed/") and text.startswith("["):
                    text = json.loads(text)[1]
                if _text_names(text, names) or _text_names(hash_addresses(text, salt), names):
                    lines.setdefault(file, []).append(number)
                    connection.execute("insert into erased values (?, ?)", [file, number])
    return lines


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


def _holds(connection: duckdb.DuckDBPyConnection, one: snapshot.Snapshot, values: dict) -> bool:
    """Whether a snapshot was made from a record about them."""
    where = f"{CARRIES_AN_ID} or {HAS_ADDRESS}" if values["person"] else "tenant_id = $tenant"
    events = f"select 1 from ({_records(one.scan('events'))}) as r where {where} limit 1"
    quarantined = one.scan("quarantined_events")
    unreadable = f"select 1 from {quarantined} semi join erased using (file, line_number) limit 1"
    return bool(
        _run(connection, events, values).fetchall() or connection.execute(unreadable).fetchall()
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


def _names_of(path: Path) -> str:
    """A file's path and its name without suffixes, which would continue an address."""
    return f"{path} {path.stem} {Path(path.stem).stem}"


def _file_names(path: Path, names: set[str], address: Address | None = None) -> bool:
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
    text = content.decode(encoding, "replace")
    return _text_names(text, names) or bool(address and address.is_in(text))


def _text_names(text: str, names: set[str]) -> bool:
    """Whether a text has one of the names between quotes, or between spaces and punctuation."""
    tokens = TOKEN.findall(text)
    return any(
        not names.isdisjoint((word, between, _unescaped(between), *word.split("|")))
        for between, word in tokens
    )


def _unescaped(text: str) -> str:
    try:
        return json.loads(f'"{text}"')
    except ValueError:
        return text
