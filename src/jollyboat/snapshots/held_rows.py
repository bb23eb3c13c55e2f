"""Tenants that are held back: a publication keeps their rows of the last snapshot.

Temporary views hide the warehouse's tables of the same name, so everything that reads a table to
publish it reads the view.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from jollyboat.snapshots.snapshot import Snapshot

# They account for the lines of this build, whoever waits.
AS_BUILT = ("quarantined_events", "duplicate_events", "tenant_days")
LEFT_OUT = "its features are left out, because the SQL has changed since its rows were made"


def keep_last_rows(
    connection: duckdb.DuckDBPyConnection,
    tables: Iterable[str],
    last: Snapshot | None,
    reasons: Mapping[str, str],
    outdated: Iterable[str],
) -> dict[str, dict]:
    """Replace the rows of these tenants by those of `last`; returns what the manifest says of each.

    The tables `outdated` get no rows of them: other SQL computed those of `last`. The events that
    wait are counted in `record_reconciliation`.
    """
    connection.execute(
        "create temp table held_tenants as select unnest($tenants) as tenant_id",
        {"tenants": list(reasons)},
    )
    tables = list(tables)
    for table in tables:
        columns = dict(
            connection.sql(f"select name, type from pragma_table_info('{table}')").fetchall()
        )
        if "tenant_id" in columns and table not in AS_BUILT:
            kept = last if table not in outdated else None
            connection.execute(f"create temp view {table} as {_rows(table, columns, kept)}")
    connection.execute(f"create temp table held_events as {_waiting_events(last)}")
    if "record_reconciliation" in tables:
        connection.execute(f"create temp view record_reconciliation as {RECONCILIATION}")
    return _describe(connection, last, reasons)


def _rows(table: str, columns: Mapping[str, str], last: Snapshot | None) -> str:
    """The table with the held tenants' rows of `last`, in the table's own columns and types."""
    rows = f"""
        select built.* from warehouse.main.{table} as built
        anti join held_tenants on built.tenant_id = held_tenants.tenant_id"""
    if last is None or table not in last.manifest["tables"]:
        return rows
    kept = {name: f'"{name}"' for name in last.columns(table)}
    values = ", ".join(
        f'try_cast({kept.get(name, "null")} as {kind}) as "{name}"'
        for name, kind in columns.items()
    )
    return f"""{rows}
        union all
        select {values} from {last.scan(table)} as kept
        semi join held_tenants on kept.tenant_id = held_tenants.tenant_id"""


def _waiting_events(last: Snapshot | None) -> str:
    """The held tenants' events of this build that the last snapshot does not have."""
    events = """
        select built.tenant_id, built.source, built.file from warehouse.main.events as built
        semi join held_tenants on built.tenant_id = held_tenants.tenant_id"""
    if last is None:
        return events
    return f"""{events}
        anti join {last.scan("events")} as kept
            on built.tenant_id = kept.tenant_id and built.source = kept.source
            and built.event_id = kept.event_id"""


RECONCILIATION = """
    with waiting as (select source, file, count(*) as event_count from held_events group by all)
    select
        built.* replace (
            built.event_count - coalesce(waiting.event_count, 0) as event_count,
            coalesce(waiting.event_count, 0) as held_back_count
        )
    from warehouse.main.record_reconciliation as built
    left join waiting on built.source = waiting.source and built.file = waiting.file"""


def _describe(
    connection: duckdb.DuckDBPyConnection, last: Snapshot | None, reasons: Mapping[str, str]
) -> dict[str, dict]:
    counts = dict(
        connection.sql("select tenant_id, count(*) from held_events group by 1").fetchall()
    )
    sessions = connection.sql(
        "select tenant_id, cast(max(ended_at) as date)::varchar from sessions "
        "semi join held_tenants using (tenant_id) group by all"
    )
    until = dict(sessions.fetchall())
    features = connection.sql("select distinct tenant_id from session_features").fetchall()
    today = datetime.now(UTC).date().isoformat()
    before = last.held if last else {}
    return {
        tenant: {
            "reason": reason
            if tenant not in until or (tenant,) in features
            else f"{reason}; {LEFT_OUT}",
            "since": before.get(tenant, {}).get("since", today),
            "until": until.get(tenant),
            "record_count": counts.get(tenant, 0),
        }
        for tenant, reason in reasons.items()
    }
