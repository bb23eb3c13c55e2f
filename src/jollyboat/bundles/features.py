"""The features of sessions online, computed by the bundle's own SQL."""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from pydantic_core import from_json, to_json

from jollyboat.bundles.bundle import NO_OUTCOME, REASSEMBLE
from jollyboat.store import UserError, hash_addresses, hash_personal, quoted
from jollyboat.warehouse.event_columns import EVENT_COLUMNS

_POINT_COLUMNS = {"entity_id": "varchar", "point_at": "timestamp", "event_number": "integer"}
_TEXTS = {name for name, kind in EVENT_COLUMNS.items() if kind == "varchar"} - {"payload"}
_MOMENTS = {name for name, kind in EVENT_COLUMNS.items() if kind == "timestamp"}
_IDS = {"event_id", "anonymous_id", "user_id", "session_id", "order_id"}
# dbt's macros is_placeholder and whole_number have the same texts.
_PLACEHOLDER = re.compile(
    r"[-0.]+|-1|null|nil|none|nan|n/a|undefined|unknown|anonymous|guest|\(not set\)"
    r"|\[object object\]",
    re.IGNORECASE | re.ASCII,
)
_PLACEHOLDERS_BEGIN = frozenset("-.0nNuUaAgG([")  # most ids begin otherwise and need no pattern
_WHOLE_NUMBER = re.compile(r"(-?[0-9]+)\.0+", re.ASCII)
_SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
}
_RUNS_BEFORE_RESET = 100
_MOST_JUDGED = 1_000  # events whose outcome is remembered; a payload may have 64 kB


class Rows(list[dict]):
    """A session's rows of `events_at_point`, in which personal values are hashed already."""


class FeatureQuery:
    """features.sql as a prepared query over an in-process DuckDB, for one thread at a time.

    `lookups` has each lookup table's columns and types, `files` its Parquet files; a table without
    files is empty. `days` keeps the rows that were valid in that many days before `until` (else
    before the newest row), `tenant` those of one tenant. `outcome` is a condition on one event.
    `events` names the view that the SQL reads. `rows` has rows of lookups, as plain values.
    With `reaches_back` the oldest state of a lookup is valid at any earlier time, too.
    """

    def __init__(
        self,
        sql: str,
        lookups: Mapping[str, Mapping[str, str]],
        files: Mapping[str, Sequence[Path]] | None = None,
        threads: int = 1,
        days: int | None = None,
        tenant: str | None = None,
        outcome: str = NO_OUTCOME,
        until: datetime | None = None,
        events: str = "events_at_point",
        rows: Mapping[str, Sequence[Mapping]] | None = None,
        reaches_back: bool = False,
    ):
        self._connection = duckdb.connect(":memory:", config={"threads": threads, **_SETTINGS})
        # _drop_eviction_queue needs a table that is larger than its limit.
        self._connection.execute("create table ballast as select range from range(100_000)")
        # Small row groups: a scan for the few keys of a request skips most of an ordered table.
        self._connection.execute(
            "attach ':memory:' as warehouse (row_group_size 2048); use warehouse"
        )
        self._connection.execute("set TimeZone = 'UTC'")
        paths = [path for table in lookups for path in (files or {}).get(table, [])]
        confine(self._connection, paths)
        for table, columns in lookups.items():
            self._load_lookup(table, columns, (files or {}).get(table, []), days, tenant, until)
            if added := (rows or {}).get(table):
                self._connection.register("added", pd.DataFrame(added))
                self._connection.execute(f'insert into "{table}" by name from added')
                self._connection.unregister("added")
            if reaches_back:
                self._connection.execute(_REACH_BACK.format(table=table))
        # Each run reads this array in place; a table would grow with every write.
        self._body = np.array(["[]"], dtype=object)
        self._connection.register("requests", {"body": self._body})
        self._connection.execute(_EVENTS_AT_POINT.format(view=events))
        self._connection.execute(f"prepare features as {refuse_other_statements(sql)}")
        self._outcome = outcome
        self._outcome_columns = list(_columns_of(outcome))
        self._judged: dict[tuple, bool] = {}
        if outcome != NO_OUTCOME:
            self._connection.execute(
                f"prepare outcomes as {refuse_other_statements(_outcome_query(outcome))}"
            )
        self._runs = 0

    def run(
        self, requests: Sequence[Sequence[Mapping]], wanted: Sequence[str] = ()
    ) -> pd.DataFrame:
        """One row of features per request, in their order: the columns `wanted`, or all.

        A request is a session's rows as `rows_of_request` returns them. Values are Python's own,
        in columns of objects. Raises ValueError if the query does not return one row for each
        request, UserError if a column is missing.
        """
        names, rows = self.rows(requests)
        position = {name: place for place, name in enumerate(names)}
        by_entity = {row[position["entity_id"]]: row for row in rows}
        entities = [str(place) for place in range(len(requests))]
        if len(rows) != len(requests) or by_entity.keys() != set(entities):
            raise ValueError(
                f"features.sql gave {len(rows)} rows for {len(requests)} sessions; "
                "it must give one for each"
            )
        refuse_missing(wanted, position)
        names = list(wanted or position)
        places = [position[name] for name in names]
        table = np.empty((len(rows), len(names)), dtype=object)
        for number, entity in enumerate(entities):
            values = [by_entity[entity][place] for place in places]
            table[number] = [_plain(each) for each in values]
        # Without the dtype pandas would look for texts in each column.
        return pd.DataFrame(table, columns=names, dtype=object)

    def rows(self, requests: Sequence[Sequence[Mapping]]) -> tuple[list[str], list[tuple]]:
        """The names of the columns and all rows that the query gives for these requests."""
        self._body[0] = to_json([row for rows in requests for row in rows]).decode()
        try:
            result = self._connection.execute("execute features")
            # DuckDB's data frame takes half as long as the query for a few rows.
            names, rows = [name for name, *_ in result.description], result.fetchall()
        finally:
            self._body[0] = "[]"
        self._runs += 1
        if self._runs % _RUNS_BEFORE_RESET == 0:
            self._drop_eviction_queue()
        return names, rows

    def keys(self, table: str, column: str) -> set:
        """The values of a column of a lookup."""
        rows = self._connection.execute(f'select distinct "{column}" from "{table}"').fetchall()
        return {value for (value,) in rows}

    def had_outcome(self, requests: Sequence[Sequence[Mapping]]) -> list[bool]:
        """Whether an event of each request, as for `run`, is an outcome already.

        The condition is about one event, and often about its type alone, so its result is
        remembered by the values of the columns that it names.
        """
        if self._outcome == NO_OUTCOME:
            return [False] * len(requests)
        values = [[tuple(map(row.get, self._outcome_columns)) for row in rows] for rows in requests]
        if len(self._judged) > _MOST_JUDGED:
            self._judged.clear()
        if new := set().union(*values) - self._judged.keys():
            self._judged |= self._judge(list(new))
        return [any(map(self._judged.get, events)) for events in values]

    def _judge(self, events: list[tuple]) -> dict[tuple, bool]:
        """Whether events with these values are outcomes."""
        rows = [
            {"entity_id": str(place), **dict(zip(self._outcome_columns, values, strict=True))}
            for place, values in enumerate(events)
        ]
        self._body[0] = to_json(rows).decode()
        try:
            outcomes = {
                place for (place,) in self._connection.execute("execute outcomes").fetchall()
            }
        finally:
            self._body[0] = "[]"
        return {event: str(place) in outcomes for place, event in enumerate(events)}

    def _drop_eviction_queue(self) -> None:
        """Empty DuckDB's list of evictable buffers, most of which no longer exist.

        Under a limit that `ballast` alone exceeds DuckDB walks through the whole list, which it
        otherwise does from 32,768 entries on. It takes 3 ms and spills nothing, because there is
        no temporary directory. Without it 3,000 runs took a sixth more memory and made queries a
        quarter slower.
        """
        with suppress(duckdb.OutOfMemoryException):
            self._connection.execute("set memory_limit = '200kB'")
        self._connection.execute("reset memory_limit")

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()

    def _load_lookup(
        self,
        table: str,
        columns: Mapping[str, str],
        files: Sequence[Path],
        days: int | None,
        tenant: str | None,
        until: datetime | None,
    ) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        types = ", ".join(f'"{name}" {type_}' for name, type_ in columns.items())
        self._connection.execute(f'create table "{table}" ({types})')
        if not files:
            return
        source = "read_parquet($1, union_by_name = true, hive_partitioning = false)"
        conditions = ["true"]
        if days is not None:
            newest = f"(select max(valid_from) from {source})"
            last = f"cast('{until:%Y-%m-%d}' as date)" if until else newest
            first = f"{last} - {days}"
            conditions.append(f"(valid_to is null or valid_to > {first})")
        if tenant and "tenant_id" in columns:
            conditions.append(f"tenant_id = '{quoted(tenant)}'")
        self._connection.execute(
            f'insert into "{table}" select {names} from {source} '
            f"where {' and '.join(conditions)} order by {names}",
            [[str(path) for path in files]],
        )


def _plain(value: object) -> object:
    """A decimal as float; infinite and NaN as None, as in session_features."""
    if type(value) is Decimal:
        return float(value)
    return None if type(value) is float and not math.isfinite(value) else value


def confine(
    connection: duckdb.DuckDBPyConnection, files: Iterable[Path] = (), folder: Path | None = None
) -> None:
    """Let a bundle's SQL read these files and this folder, and change no setting."""
    connection.execute("set allowed_paths = ?", [[str(path) for path in files]])
    connection.execute("set allowed_directories = ?", [[str(folder)] if folder else []])
    # FeatureQuery._drop_eviction_queue sets the memory limit.
    connection.execute("set allowed_configs = ['memory_limit']")
    connection.execute("set enable_external_access = false; set lock_configuration = true")


def refuse_other_statements(sql: str) -> str:
    """The one SELECT of features.sql; UserError where it is another statement, or several."""
    statements = duckdb.extract_statements(sql)
    if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
        kinds = ", ".join(each.type.name for each in statements) or "none"
        raise UserError(
            f"features.sql of the bundle must be one SELECT statement, but has: {kinds}. "
            "Correct features_at_point.sql, then `make data train deploy`."
        )
    return statements[0].query.strip().rstrip(";")


def refuse_missing(wanted: Collection[str], given: Collection[str]) -> None:
    """UserError with the first column that the model reads and the features lack."""
    if missing := set(wanted).difference(given):
        raise UserError(
            f"features.sql of the bundle has no column {min(missing)}, which the model reads: "
            f"{REASSEMBLE}."
        )


def rows_of_request(
    place: int,
    tenant_id: str | None,
    events: Sequence[Mapping],
    salt: str = "",
    personal_fields: Sequence[str] = (),
    point_at: datetime | None = None,
    history_days: int | None = None,
) -> Rows:
    """The events as rows of `events_at_point`: without repeated ids, ordered and numbered.

    The order is that of dbt's macro event_order: by time, then by `sequence`, then as given.
    The entity is the place. Without `tenant_id` each event keeps its own. The values of
    `personal_fields` in a payload are hashed, and e-mail addresses in every text. Rows get another
    place and are not hashed again.

    The point is the time of the last event, or `point_at`: then later events are left out. So are
    those that are `history_days` or more before it.
    """
    entity_id = str(place)
    if isinstance(events, Rows):
        return Rows(_with_entity(row, entity_id) for row in events)
    first: dict[tuple, tuple[tuple, dict]] = {}
    for event in events:
        occurred_at, row = _row_of_event(event, tenant_id, salt, personal_fields)
        if point_at and occurred_at > point_at:
            continue
        order = (occurred_at, row.get("sequence", math.inf))
        first.setdefault((row.get("source"), row["event_id"]), (order, row))
    ordered = sorted(first.values(), key=itemgetter(0))
    point_at = point_at or ordered[-1][0][0]
    if history_days:
        begin = point_at - timedelta(days=history_days)
        ordered = [each for each in ordered if each[0][0] > begin]
    ordered, point_at = Rows(row for _, row in ordered), point_at.isoformat(" ")
    for number, row in enumerate(ordered, start=1):
        row["entity_id"] = entity_id
        if history_days is None:  # not the session's own id: two clients may send the same one
            row["session_id"] = entity_id
        row["point_at"], row["event_number"] = point_at, number
    return ordered


def _with_entity(row: Mapping, entity_id: str) -> dict:
    names = [name for name in ("entity_id", "session_id") if row.get(name) == row["entity_id"]]
    return {**row, **dict.fromkeys(names, entity_id)}


def _row_of_event(
    event: Mapping, tenant_id: str | None, salt: str, personal_fields: Sequence[str]
) -> tuple[datetime, dict]:
    row, others, occurred_at = {}, {}, None
    for name, value in event.items():
        if value is None or value != value:
            continue
        if name in _TEXTS:
            # as in staging: trimmed, null if empty or a placeholder, without addresses
            text = kept_id(str(value)) if name in _IDS else str(value).strip(" ")
            if name == "product_id":
                text = whole_number(text)
            if text:
                row[name] = hash_addresses(text, salt)
        elif name in _MOMENTS:
            moment = naive_utc(value)
            row[name] = moment.isoformat(" ")
            if name == "occurred_at":
                occurred_at = moment
        elif kind := EVENT_COLUMNS.get(name):
            if name != "payload":
                is_integer = kind in ("integer", "bigint")
                row[name] = int(value) if is_integer else format(Decimal(str(value)), "f")
        else:
            others[name] = value
    if tenant_id is not None:
        row["tenant_id"] = tenant_id
    if others or "payload" in event:
        payload = payload_text(event.get("payload"), others)
        payload = payload and hash_personal(payload, personal_fields, salt)
        row["payload"] = payload and hash_addresses(payload, salt)
    if "event_id" not in row:
        row["event_id"] = hashlib.md5(
            json.dumps(row, sort_keys=True).encode(), usedforsecurity=False
        ).hexdigest()
    return occurred_at, row


def kept_id(text: str) -> str | None:
    """The id as staging keeps it; None for an empty one and a placeholder, such as "undefined"."""
    text = whole_number(text.strip(" "))
    if not text or (text[0] in _PLACEHOLDERS_BEGIN and _PLACEHOLDER.fullmatch(text)):
        return None
    return text


def whole_number(text: str) -> str:
    """The id without the ".0" of a whole number that passed through a column of floats."""
    match = text.endswith("0") and _WHOLE_NUMBER.fullmatch(text)
    return match[1] if match else text


def payload_text(payload: object, others: Mapping) -> str | None:
    """The payload as the text of a JSON object, with the fields that are no columns in it."""
    if payload is None or payload != payload:
        return _json(others) if others else None
    content = payload
    if isinstance(payload, str):
        # Not json.loads: it reads half a surrogate pair, which would fail DuckDB's query.
        with suppress(ValueError):
            content = from_json(payload)
        if isinstance(content, Mapping) and not others:
            return payload
    return _json({**others, **(content if isinstance(content, Mapping) else {"payload": payload})})


def naive_utc(value: datetime | str) -> datetime:
    """The time in UTC without its zone; a time without a zone is taken as UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


_REACH_BACK = """
update "{table}" set valid_from = date '1970-01-01'
where valid_from = (select min(valid_from) from "{table}")
"""
_FORM = json.dumps([_POINT_COLUMNS | EVENT_COLUMNS])
_EVENTS_AT_POINT = (
    "create view {view} as select event.* from ("
    f"select unnest(from_json(body, '{_FORM.replace('{', '{{').replace('}', '}}')}')) as event "
    "from requests)"
)


def _columns_of(outcome: str) -> dict[str, str]:
    """The columns that the condition can name, with their types."""
    columns = _POINT_COLUMNS | EVENT_COLUMNS
    return {name: columns[name] for name in columns if name in outcome and name != "entity_id"}


def _outcome_query(outcome: str) -> str:
    """The entities with an outcome. It parses no column that the condition cannot name."""
    columns = {"entity_id": "varchar", **_columns_of(outcome)}
    return f"""
        select distinct entity_id
        from (
            select unnest(from_json(body, '{json.dumps([columns])}'), recursive := true)
            from requests
        ) as events
        where {outcome}
    """
