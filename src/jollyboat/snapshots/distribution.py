"""Distributions of a table's columns, and their distance between two states, from samples."""

import duckdb
import numpy as np

from jollyboat.snapshots.stability import stability_index
from jollyboat.store import unused_name

SAMPLED = "using sample reservoir(10000 rows) repeatable (7)"
NUMBERS = ("BIGINT", "INTEGER", "HUGEINT", "DOUBLE", "DECIMAL", "FLOAT", "SMALLINT", "TINYINT")
OTHERS = ("VARCHAR", "BOOLEAN")  # not times: they always change

# Rows by bin: tenths of the state before (numbers) or its 20 most frequent values (other columns).
COMPARISON = """
with samples as (
    select false as {is_after}, {columns} from (from {before} {sampled})
    union all
    select true, {columns} from (from {after} {sampled})
),
long as (
    from samples unpivot include nulls (value for column_name in (columns(* exclude {is_after})))
),
numbered as (
    select *, case
            when list_contains({numbers}, column_name) then try_cast(value as double)
        end as number
    from long
),
edges as (
    select column_name,
        quantile_disc(number, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) as edges,
        approx_top_k(value, 20) as frequent
    from numbered where not {is_after} group by all
),
binned as (
    select column_name, case when value is null then 'unknown'
            when number is not null
                then cast(len(list_filter(edges, lambda edge: edge < number)) as varchar)
            when list_contains(frequent, value) then '=' || value else 'other' end as bin,
        count_if(not {is_after}) as n_before, count_if({is_after}) as n_after
    from numbered inner join edges using (column_name) group by all
),
counts as (
    select column_name, list(n_before) as n_before, list(n_after) as n_after
    from binned group by all
),
summaries as (
    select column_name, {is_after},
        coalesce(format('mean {{:.4g}}', avg(number)), 'mostly ' || mode(value), 'unknown')
        || format(', {{:.1f}} % unknown', 100 - 100.0 * count(value) / count(*)) as summary
    from numbered group by all
)
select column_name, any_value(n_before) as n_before, any_value(n_after) as n_after,
    any_value(summary) filter (where not {is_after}) as before,
    any_value(summary) filter (where {is_after}) as after
from counts inner join summaries using (column_name)
group by column_name having count(*) = 2
"""


def sampled(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The rows of it that `compare` would read."""
    return relation.query("whole", f"from whole {SAMPLED}")


def describe(connection: duckdb.DuckDBPyConnection, table: str) -> list[dict]:
    """Each column that `compare` reads: `unknown_share`, and `bins`, DuckDB's histogram.

    A bin is a value or the end of an interval, and how many of the sampled rows are in it.
    """
    connection.execute(f"create or replace temp table sampled as from {table} {SAMPLED}")
    described = []
    for name, kind in _kinds(connection, "sampled").items():
        if not _is_compared(name, kind):
            continue
        share = connection.sql(f'select 1 - count("{name}") / count(*) from sampled').fetchone()[0]
        # DuckDB's macro has columns of its own, so it gets a table without others.
        connection.execute(f'create or replace temp view one as select "{name}" as v from sampled')
        bins = connection.sql(
            "select bin::varchar, count from histogram_values(one, v, bin_count := 12)"
        )
        sign = "≤ " if kind.startswith(NUMBERS) else ""  # an interval is named by its end
        labels = [(f"{sign}{label}", count) for label, count in bins.fetchall()]
        described.append({"column_name": name, "unknown_share": share, "bins": labels})
    return described


def compare(connection: duckdb.DuckDBPyConnection, before: str, after: str) -> list[dict]:
    """The columns that both tables or scans have, the furthest first: `distance`, and `before` and
    `after` in words.

    The distance is the stability index of the bins: 0 is the same, above 0.25 is far.
    Identifiers and times are left out. A column without rows on one side is left out.
    """
    old, new = _kinds(connection, before), _kinds(connection, after)
    shared = [
        name for name, kind in old.items() if new.get(name) == kind and _is_compared(name, kind)
    ]
    if not shared:
        return []
    query = COMPARISON.format(
        before=before,
        after=after,
        sampled=SAMPLED,
        is_after=unused_name("is_after", shared),
        columns=", ".join(f'cast("{name}" as varchar) as "{name}"' for name in shared),
        numbers=[name for name in shared if old[name].startswith(NUMBERS)],
    )
    columns = connection.sql(query).df().to_dict("records")
    for column in columns:
        counts = (np.array([column.pop(side)]) for side in ("n_after", "n_before"))
        column["distance"] = round(float(stability_index(*counts)[0]), 4)
    return sorted(columns, key=lambda column: (-column["distance"], column["column_name"]))


def _kinds(connection: duckdb.DuckDBPyConnection, side: str) -> dict[str, str]:
    relation = connection.sql(f"from {side}")
    return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _is_compared(name: str, kind: str) -> bool:
    is_identifier = name.endswith("_id") and name != "tenant_id"
    return kind.startswith(NUMBERS + OTHERS) and not is_identifier
