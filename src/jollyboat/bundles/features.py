"""The features of waiting sessions, computed by the bundle's own SQL: there is no second implementation to differ."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from operator import itemgetter
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from pydantic_core import from_json, to_json

from jollyboat.bundles.bundle import REASSEMBLE
from jollyboat.store import hash_text, quoted
from jollyboat.store.errors import UserError

EVENT_COLUMNS = {
    "event_id": "varchar",
    "tenant_id": "varchar",
    "source": "varchar",
    "event_type": "varchar",
    "occurred_at": "timestamp",
    "received_at": "timestamp",
    "anonymous_id": "varchar",
    "user_id": "varchar",
    "session_id": "varchar",
    "order_id": "varchar",
    "product_id": "varchar",
    "price": "decimal(18,4)",
    "quantity": "integer",
    "currency": "varchar",
    "category": "varchar",
    "query": "varchar",
    "page": "varchar",
    "url": "varchar",
    "referrer": "varchar",
    "channel": "varchar",
    "device": "varchar",
    "country": "varchar",
    "payload": "varchar",
}
_POINT_COLUMNS = {"entity_id": "varchar", "point_at": "timestamp", "event_number": "integer"}
_TEXTS = {name for name, kind in EVENT_COLUMNS.items() if kind == "varchar"} - {"payload"}
_MOMENTS = {name for name, kind in EVENT_COLUMNS.items() if kind == "timestamp"}
_ADDRESSED = {
    "event_id",
    "anonymous_id",
    "user_id",
    "session_id",
    "order_id",
    "query",
    "page",
    "url",
    "referrer",
}
# Word by word: as one expression, like the macro's, Python takes a second for 10,000 letters after an at sign.
_WORD, _ADDRESS = re.compile(r'[^\s"\\<>,;:/?&=]+', re.ASCII), re.compile(r".(?:@|%40).", re.DOTALL)
_SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
}
_RUNS = 100  # after which DuckDB is made to forget


class FeatureQuery:
    """features.sql over an in-process DuckDB, prepared once and run over all sessions that wait; one thread at a time.

    `lookups` gives each lookup table's columns and types, `files` its Parquet files; a table without files is empty,
    with `days` it holds what was valid at some time of that many days before its newest, not the whole past, and with
    `tenant` that tenant's rows alone.
    """

    def __init__(
        self,
        sql: str,
        lookups: Mapping[str, Mapping[str, str]],
        files: Mapping[str, Sequence[Path]] | None = None,
        threads: int = 1,
        days: int | None = None,
        tenant: str | None = None,
    ):
        self._connection = duckdb.connect(":memory:", config={"threads": threads, **_SETTINGS})
        self._connection.execute(
            "create table ballast as select range as held from range(100_000)"
        )  # see _forget
        # Small row groups, so that a scan for the few keys of a request passes over most of a table in their order.
        self._connection.execute(
            "attach ':memory:' as warehouse (row_group_size 2048); use warehouse"
        )
        self._connection.execute("set TimeZone = 'UTC'")
        for table, columns in lookups.items():
            self._load_lookup(table, columns, (files or {}).get(table, []), days, tenant)
        self._body = np.array(
            ["[]"], dtype=object
        )  # read in place at each run: a table would be written to and grow
        self._connection.register("requests", {"body": self._body})
        self._connection.execute(_EVENTS_AT_POINT)
        self._connection.execute(f"prepare features as {sql.strip().rstrip(';')}")
        self._runs = 0

    def run(
        self, requests: Sequence[Sequence[Mapping]], wanted: Sequence[str] = ()
    ) -> pd.DataFrame:
        """One row of features per request, in their order, as Python's own values in columns of objects: those wanted,
        or all.

        A request is what `rows_of_request` makes of the events so far of one session. Raises ValueError where the query
        does not give one row for each, UserError where it gives no such column.
        """
        self._body[0] = to_json([row for rows in requests for row in rows]).decode()
        try:
            found = self._connection.execute("execute features")
            # Not DuckDB's data frame: of a few rows it takes as long as half of the query.
            place_of, rows = (
                {name: place for place, (name, *_) in enumerate(found.description)},
                found.fetchall(),
            )
        finally:
            self._body[0] = "[]"
        self._runs += 1
        if self._runs % _RUNS == 0:
            self._forget()
        by_entity = {row[place_of["entity_id"]]: row for row in rows}
        if len(rows) != len(requests) or by_entity.keys() != {
            str(place) for place in range(len(requests))
        }:
            raise ValueError(
                f"features.sql gave {len(rows)} rows for {len(requests)} sessions; it must give one for each"
            )
        refuse_missing(wanted, place_of)
        names = list(wanted or place_of)
        places = [place_of[name] for name in names]
        table = np.empty((len(rows), len(names)), dtype=object)
        for number in range(len(rows)):
            row = by_entity[str(number)]
            table[number] = [
                float(row[place]) if type(row[place]) is Decimal else row[place] for place in places
            ]
        return pd.DataFrame(
            table, columns=names, dtype=object
        )  # pandas would look for texts in each column

    def _forget(self) -> None:
        """Empty DuckDB's lists of buffers that it could evict, most of which are gone: it looks through a list from
        32,768 entries on, and all of them are looked through for a limit that the ballast alone exceeds. Nothing else
        goes, for without a folder for it nothing is spilled. 3 ms; without it memory grew by a sixth and queries took
        a quarter longer after 3,000 runs."""
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
    ) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        types = ", ".join(f'"{name}" {type_}' for name, type_ in columns.items())
        self._connection.execute(f'create table "{table}" ({types})')
        if files:
            since = f"(select max(valid_from) - {days} from read_parquet($1, union_by_name = true))"
            wanted = [f"(valid_to is null or valid_to > {since})"] if days is not None else []
            wanted += (
                [f"tenant_id = '{quoted(tenant)}'"] if tenant and "tenant_id" in columns else []
            )
            self._connection.execute(
                f'insert into "{table}" select {names} '
                "from read_parquet($1, union_by_name = true, hive_partitioning = false) "
                f"where {' and '.join(wanted) or 'true'} order by {names}",
                [[str(path) for path in files]],
            )


def refuse_missing(wanted: Collection[str], given: Collection[str]) -> None:
    """UserError with the first column that the model reads and the features do not have."""
    if missing := set(wanted).difference(given):
        raise UserError(
            f"features.sql of the bundle gives no {min(missing)}, which the model reads; {REASSEMBLE}."
        )


def rows_of_request(
    place: int, tenant_id: str | None, events: Sequence[Mapping], salt: str = ""
) -> list[dict]:
    """The events as rows of `events_at_point`: repeated ids dropped, ordered, numbered, the entity being the place.

    All are the tenant's; without one each keeps what it says.
    """
    first: dict[str, tuple[datetime, str, dict]] = {}
    for event in events:
        occurred_at, row = _row_of_event(event, tenant_id, salt)
        first.setdefault(row["event_id"], (occurred_at, row["event_id"], row))
    ordered = sorted(first.values(), key=itemgetter(0, 1))
    entity_id, point_at = str(place), ordered[-1][2]["occurred_at"]
    for number, (_, _, row) in enumerate(ordered, start=1):
        # The session's own id stays outside: two clients may send the same one.
        row["entity_id"] = row["session_id"] = entity_id
        row["point_at"], row["event_number"] = point_at, number
    return [row for *_, row in ordered]


def _row_of_event(event: Mapping, tenant_id: str | None, salt: str) -> tuple[datetime, dict]:
    row, others, occurred_at = {}, {}, None
    for name, value in event.items():
        if value is None or value != value:
            continue
        if name in _TEXTS:
            # as staging keeps it: trimmed, an empty text is none, and no address stays
            if text := str(value).strip(" "):
                row[name] = hash_addresses(text, salt) if name in _ADDRESSED else text
        elif name in _MOMENTS:
            moment = naive_utc(value)
            row[name] = moment.isoformat(" ")
            if name == "occurred_at":
                occurred_at = moment
        elif kind := EVENT_COLUMNS.get(name):
            if name != "payload":
                row[name] = int(value) if kind == "integer" else format(Decimal(str(value)), "f")
        elif name not in _POINT_COLUMNS:
            others[name] = value
    if tenant_id is not None:
        row["tenant_id"] = tenant_id
    if others or "payload" in event:
        payload = payload_text(event.get("payload"), others)
        row["payload"] = payload and hash_addresses(payload, salt)
    if "event_id" not in row:
        row["event_id"] = hashlib.md5(
            json.dumps(row, sort_keys=True).encode(), usedforsecurity=False
        ).hexdigest()
    return occurred_at, row


def hash_addresses(text: str, salt: str) -> str:
    """Text in which whatever looks like an e-mail address is its hash, as dbt's macro of this name has it."""
    if "@" not in text and "%40" not in text:
        return text
    return _WORD.sub(lambda word: _hash_address(word[0], salt), text)


def _hash_address(word: str, salt: str) -> str:
    return hash_text(word.replace("%40", "@"), salt) if _ADDRESS.search(word) else word


def payload_text(payload: object, others: Mapping) -> str | None:
    """The payload as the text of a JSON object, with the fields that are no column beside what it has."""
    if payload is None or payload != payload:
        return _json(others) if others else None
    held = payload
    if isinstance(payload, str):
        # Not json.loads: it takes what DuckDB refuses (half a surrogate pair), and one such text would fail the query.
        with suppress(ValueError):
            held = from_json(payload)
        if isinstance(held, Mapping) and not others:
            return payload
    return _json({**others, **(held if isinstance(held, Mapping) else {"payload": payload})})


def naive_utc(value: datetime | str) -> datetime:
    """The time in UTC without its zone; a time without a zone is taken as UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


_EVENTS_AT_POINT = f"""
create view events_at_point as
select event.*
from (
    select unnest(from_json(body, '{json.dumps([_POINT_COLUMNS | EVENT_COLUMNS])}')) as event
    from requests
)
"""
