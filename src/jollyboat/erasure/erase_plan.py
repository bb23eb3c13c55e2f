"""What an erasure is to remove: the records about a tenant or a person, the ids that name them, what was made of them.

Some ids cannot be told from other words as text: those of fewer than 6 characters, those that are also a whole value of
a record that stays (another tenant's id, a kind of event, a device), a word of this project's own or of the catalog, or
a number that could count records. Records go by such an id where it stands as an id, and nowhere else.
"""

import os

import duckdb

from jollyboat.erasure.naming import Ids
from jollyboat.snapshots import snapshot
from jollyboat.store import PROJECT, Store, hash_file, hash_text, quoted, read_json
from jollyboat.store.errors import UserError
from jollyboat.store.project import LIBRARY
from jollyboat.warehouse import warehouse

# Records with the ids that a prediction or a judgement has in its payload as if in columns.
RECORDS = """
select
    * exclude (said) replace (
        coalesce(anonymous_id, said ->> 'anonymous_id') as anonymous_id,
        coalesce(user_id, said ->> 'user_id') as user_id,
        coalesce(session_id, said ->> 'entity_id') as session_id
    ),
    said is not null as is_feedback
from (
    select *, case when source in ({feedback}) and json_valid(payload) then cast(payload as json) end as said
    from {source}
) as told
"""
# The ids that the person goes by, then the sessions, orders and events that carry one of them, then all such records.
ABOUT = """
create temp table people as
select tenant_id, id_kind, id from warehouse.int_identities
where (tenant_id, person_id) in (
    select tenant_id, person_id from warehouse.int_identities
    where ($person is null or $person in (id, person_id)) and ($tenant is null or tenant_id = $tenant)
)
union
select tenant_id, id_kind, id from (
    select tenant_id, 'anonymous' as id_kind, anonymous_id as id from records
    union all select tenant_id, 'user', user_id from records
) as carried
where tenant_id is not null and id is not null
and ($person is null or id = $person) and ($tenant is null or tenant_id = $tenant);
create temp table carried as
select tenant_id, session_id, order_id, event_id from (
    select tenant_id, session_id, order_id, event_id, anonymous_id, user_id from warehouse.events
    union all select tenant_id, session_id, order_id, event_id, anonymous_id, user_id from records
) as told
where ($person is null and tenant_id = $tenant)
    or (tenant_id, 'anonymous', anonymous_id) in (select (tenant_id, id_kind, id) from people)
    or (tenant_id, 'user', user_id) in (select (tenant_id, id_kind, id) from people);
create temp table known as
select tenant_id, id_kind as kind, id, true as is_told from people
union select tenant_id, 'session', session_id, true from carried
union select tenant_id, 'event', event_id, true from carried
union select tenant_id, 'order', order_id, false from carried;
delete from known where id is null;
create temp table going as
select file, line_number, true as is_own from records as r
where ($person is null and tenant_id = $tenant) or {is_known}
"""
KINDS = ("anonymous", "user", "session", "event", "order")
IS_KNOWN = " or ".join(
    f"(r.tenant_id, '{kind}', r.{kind}_id) in (select (tenant_id, kind, id) from known)"
    for kind in KINDS
)
TEXTS = (
    "tenant_id, event_id, event_type, anonymous_id, user_id, session_id, order_id, product_id, currency, category, "
    "query, page, url, referrer, channel, device, country"
)
TEXT = f"concat_ws(' ', line, {TEXTS}, payload) as text"
HAS_TENANT = "(tenant_id is not null and reason is distinct from 'malformed_tenant')"
STAYING = f"select * from records anti join going using (file, line_number) where {HAS_TENANT}"
SHORTEST = 6


def plan(store: Store, asked: dict) -> dict:
    """What is to go of whom is asked for; UserError where nothing is known of them, or it cannot be removed right now."""
    if not store.warehouse.exists():
        raise UserError(
            "Nothing is built yet, so that nobody's ids are known: `make data`, then the same command again."
        )
    found = warehouse.land(store)
    landed = {entry.file: entry for entry in found.files}
    built = read_json(store.dbt / "built.json", default={})
    if built.get("landed") != found.fingerprint:  # or lines may have other numbers by now
        raise UserError(
            "Not all raw files are in the tables yet: `make data`, then the same command again."
        )
    with duckdb.connect() as connection:
        connection.execute(f"attach '{quoted(store.warehouse)}' as warehouse (read_only)")
        kept = asked | {"person": _as_kept(store, asked["person"])}
        connection.execute(f"create temp view records as {_records('warehouse.int_records')}")
        for statement in ABOUT.format(is_known=IS_KNOWN).strip().split(";\n"):
            _run(connection, statement, kept)
        told = {
            one
            for (one,) in connection.sql("select distinct id from known where is_told").fetchall()
        }
        told |= {kept["person"]} - {None}
        names = {asked["tenant"]} if not asked["person"] else set()
        common = _common(store, connection, told | names, asked)
        ids = {one for one in told - common if len(one) >= SHORTEST}
        addresses, names = (
            {value for value in asked.values() if value and "@" in value},
            names - common,
        )
        looked_for, known = Ids(ids | addresses | names), Ids(ids)
        files, is_known = _files(connection, looked_for, asked)
        sessions = connection.sql(
            "select tenant_id, id from known where kind = 'session' order by all"
        ).fetchall()
        holding = [
            each for each in snapshot.all_of(store) if _is_about(connection, each, known, kept)
        ]
    damaged = [
        name for name, entry in landed.items() if entry.damage and (store.root / name).is_file()
    ]
    damaged = {name: [] for name in damaged if looked_for.in_file(store.root / name)}
    plain = Ids({*ids, asked["person"] or asked["tenant"]})
    if held := [path for path in store.live.glob("*.jsonl") if plain.in_file(path)]:
        raise UserError(
            f"A server is writing about them ({held[0].name}); stop it, `make data`, then this again."
        )
    if not is_known and not damaged:
        raise UserError(
            f"Nothing is known of {' '.join(filter(None, asked.values()))}; there is nothing to erase."
        )
    files |= damaged
    for path in map(store.root.joinpath, files):
        if not os.access(path.resolve().parent, os.W_OK):
            raise UserError(
                f"{path} names them, and {path.resolve().parent} cannot be written; `chmod u+w` it, or put a copy of "
                "the file in place of a link to it, then the same command again."
            )
    snapshots = sorted(each.id for each in holding)
    settings = {path.parent.name: read_json(path) for path in store.runs.glob("*/settings.json")}
    runs = [run for run, each in settings.items() if each.get("snapshot") in snapshots]
    made = [
        path
        for path in store.models.glob("*/*/manifest.json")
        if read_json(path).get("run") in runs
    ]
    tenants = [] if asked["person"] else [asked["tenant"]]
    return {
        "asked": asked,
        "ids": sorted(ids | addresses),
        "names": sorted(names)
        or [f"{key} {tenant}" for tenant in tenants for key in ("tenant_id", "tenant")],
        "sessions": [each for each in sessions if each[1] not in ids and asked["person"]],
        "as_ids_only": len({*told, *tenants} - ids - names),
        "files": {
            name: {"sha256": hash_file(store.root / name), "lines": lines}
            for name, lines in files.items()
        },
        "snapshots": snapshots,
        "models": sorted(f"{path.parent.parent.name}/{path.parent.name}" for path in made),
    }


def _as_kept(store: Store, known_as: str | None) -> str | None:
    """The id as the tables have it: of an address its hash."""
    if not known_as or "@" not in known_as:
        return known_as
    return hash_text(known_as, store.read_salt())


def _records(source: str) -> str:
    _, feedback = warehouse.source_names()
    return RECORDS.format(
        source=source, feedback=", ".join(f"'{quoted(each)}'" for each in ["", *feedback])
    )


def _run(
    connection: duckdb.DuckDBPyConnection, statement: str, asked: dict
) -> duckdb.DuckDBPyConnection:
    return connection.execute(
        statement, {name: value for name, value in asked.items() if f"${name}" in statement}
    )


def _common(
    store: Store, connection: duckdb.DuckDBPyConnection, told: set[str], asked: dict
) -> set[str]:
    """Those of the ids and names that cannot be told from other words as text."""
    looked_for = Ids(told)
    connection.execute(
        "create temp table told as select unnest(cast($told as varchar[])) as value",
        {"told": [*told]},
    )
    values = f"select distinct value from (select unnest([{TEXTS}]) as value from ({STAYING})) semi join told using (value)"
    common = {value for (value,) in connection.sql(values).fetchall()}
    if not asked["person"]:  # of others' records none goes, whatever it names
        texts = f"select {TEXT} from ({STAYING})"
        common |= looked_for.named_in(connection, texts) - {asked["tenant"]}
    (count,) = connection.sql("select count(*) from records").fetchone()
    common |= {one for one in told if one.isdecimal() and int(one) <= count}
    own = [*(PROJECT / "dbt").rglob("*.sql"), *LIBRARY.rglob("*.py"), store.landed / "catalog.json"]
    return common | looked_for.named("\n".join(path.read_text(encoding="utf-8") for path in own))


def _files(
    connection: duckdb.DuckDBPyConnection, ids: Ids, asked: dict
) -> tuple[dict[str, list[int]], bool]:
    """The lines of each file that are to go, and whether one of them is more than somebody's line that names them.

    About a person all lines are searched; about a tenant those of which it cannot be known whose they are.
    """
    where = "true" if asked["person"] else f"not {HAS_TENANT}"
    is_own = "reason is not null or is_feedback as is_own"
    told = ids.rows(
        connection, f"select file, line_number, {is_own}, {TEXT} from records where {where}"
    )
    connection.execute(f"insert into going {told}")
    lines = "list(distinct line_number order by line_number)"
    files = connection.sql(f"select file, {lines} from going group by file").fetchall()
    (is_known,) = connection.sql("select coalesce(bool_or(is_own), false) from going").fetchone()
    return dict(files), is_known


def _is_about(
    connection: duckdb.DuckDBPyConnection, one: snapshot.Snapshot, ids: Ids, asked: dict
) -> bool:
    about = f"select 1 from ({_records(one.scan('events'))}) as r where {IS_KNOWN} limit 1"
    if not asked["person"]:
        about = f"select 1 from {one.scan('events')} where tenant_id = $tenant limit 1"
    bad = f"select 1 from {one.scan('quarantined_events')} semi join going using (file, line_number) limit 1"
    if _run(connection, about, asked).fetchall() or connection.execute(bad).fetchall():
        return True
    tables = one.manifest["tables"] if asked["person"] else []
    return any(ids.in_file(path) for table in tables for path in one.files(table))
