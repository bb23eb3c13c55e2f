"""What changed in the sources: `source_changes` as dbt found it, with renames recognised and what to do about each."""

import re

import duckdb

from jollyboat.store import Store, quoted
from jollyboat.warehouse.warehouse import DBT

DAYS_APART, LINES_READ = 3, 1_000
ALIKE, ALIKE_IN_SHAPE = 0.5, 0.9
CHANGES = """
select source, kind, field, changed_on, was_before, was_after, value_before, value_after, is_recent
from source_changes order by changed_on desc, source, kind, field limit 500
"""
# How many of either side's values the other side has, too: as they are, and in shape (letters as a, digits as 9).
LIKENESS = """
with lines as (
    select filename in $before as is_before, line from read_csv($before || $after, columns = {'line': 'VARCHAR'},
        delim = e'\\x1f', quote = '', escape = '', header = false, auto_detect = false, strict_mode = false,
        null_padding = true, new_line = '\\n', max_line_size = 8000000, filename = true)
    qualify row_number() over (partition by filename) <= $lines
),
found as (
    select is_before, case when json_valid(line) then if(is_before, line ->> $old, line ->> $new) end as value,
        regexp_replace(regexp_replace(value, '\\pL+', 'a', 'g'), '\\pN+', '9', 'g') as shape
    from lines where left(line, 1) = '{' and value is not null
),
sides as (
    select is_before, list(distinct value) as values, list(distinct shape) filter (length(shape) > 3) as shapes
    from found group by all
),
shares as (
    select avg(list_contains(values, value)::int) as alike, avg(list_contains(shapes, shape)::int) as in_shape
    from found inner join sides on found.is_before != sides.is_before group by found.is_before
)
select min(alike), coalesce(min(in_shape), 0) from shares having count(*) = 2
"""


def find(connection: duckdb.DuckDBPyConnection, store: Store, known: list[dict] = ()) -> list[dict]:
    """Every change, the newest first: as in `source_changes`, with `hint` (what to do) and `is_news` (not in `known`).

    A field that went where another with like values came is one change of kind `renamed`, its `field` both names.
    """
    rows = connection.sql(CHANGES).df().to_dict("records")
    seen = {(row["source"], row["kind"], row["field"]) for row in known}
    for row in rows:
        row["is_news"] = (row["source"], row["kind"], row["field"]) not in seen
    renames, paired = [], []
    for gone, new in _pairs(connection, store, rows):
        if gone not in paired and new not in paired:
            paired += [gone, new]
            renames.append(gone | _both(gone, new))
    kept = [row | {"hint": _hint(row)} for row in rows if row not in paired]
    return sorted(renames + kept, key=lambda row: row["changed_on"], reverse=True)


def _pairs(
    connection: duckdb.DuckDBPyConnection, store: Store, rows: list[dict]
) -> list[tuple[dict, dict]]:
    """Fields that went beside fields that came about then, as often and with like values; the most alike first."""
    pairs = [
        (gone, new)
        for gone in rows
        for new in rows
        if (gone["kind"], new["kind"]) == ("gone", "new")
        and gone["source"] == new["source"]
        and abs((gone["changed_on"] - new["changed_on"]).days) <= DAYS_APART
        and 0.5 < new["value_after"] / gone["value_before"] < 2
    ]
    scored = []
    for gone, new in pairs[:100]:
        alike, alike_in_shape = _likeness(connection, store, gone, new)
        if alike >= ALIKE or alike_in_shape >= ALIKE_IN_SHAPE:
            scored.append((alike + alike_in_shape, gone, new))
    return [(gone, new) for _, gone, new in sorted(scored, key=lambda pair: -pair[0])]


def _likeness(
    connection: duckdb.DuckDBPyConnection, store: Store, gone: dict, new: dict
) -> tuple[float, float]:
    """How alike the old field's values in the last file before are to the new one's in the first after it."""
    places = connection.execute(
        "select max_by(read_from, file_seq) filter (where arrived_on < $gone), "
        "min_by(read_from, file_seq) filter (where arrived_on >= $new) "
        "from landed_files where source = $source and read_from is not null",
        {"source": gone["source"], "gone": gone["changed_on"], "new": new["changed_on"]},
    ).fetchone()
    if None in places:
        return 0, 0
    before, after = ([str(store.root / place)] for place in places)
    paths = {name: _path(row["field"]) for name, row in [("old", gone), ("new", new)]}
    asked = {"before": before, "after": after, "lines": LINES_READ, **paths}
    try:
        return connection.execute(LIKENESS, asked).fetchone() or (0, 0)
    except duckdb.BinderException:  # a name that is no path, such as "Price [EUR]"
        return 0, 0


def _both(gone: dict, new: dict) -> dict:
    """What is said of a rename."""
    old, name, model = gone["field"], new["field"], f"stg_{gone['source']}__events.sql"
    place = DBT / "models" / "staging" / model
    leaf = name.strip('"').rpartition('"' if '"' in name else ".")[2]
    is_read = place.exists() and re.search(
        rf"\b{re.escape(leaf)}\b", place.read_text(encoding="utf-8")
    )
    both = f"coalesce(record ->> '{quoted(_path(old))}', record ->> '{quoted(_path(name))}')"
    mend = f"where dbt/models/staging/{model} reads {old}, write {both}"
    return {
        "kind": "renamed",
        "field": f"{old} → {name}",
        "was_after": new["was_after"],
        "is_news": gone["is_news"] or new["is_news"],
        "hint": f"{model} reads {name} already"
        if is_read
        else f"{mend}; `make data` then reads all files again",
    }


def _hint(row: dict) -> str:
    path = quoted(_path(row["field"]))
    return {
        "new": f"in payload unless staging leaves it out; as a feature: payload ->> '{path}' (docs/add-a-feature.md)",
        "gone": "ask who writes the logs; what reads it is null from then on",
        "retyped": "what is no number any more is null where a number is wanted",
        "nulls": "features of it mean something else from then on",
        "volume": "see that all files have arrived, whole"
        if row["value_after"] < row["value_before"]
        else "see that none is there twice",
        "event_type": "kept; counted by no feature until one names it",
    }[row["kind"]]


def _path(field: str) -> str:
    """The field's JSON path; in a list that of its first item."""
    return f"$.{field.replace('[]', '[0]')}"
