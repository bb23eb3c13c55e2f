"""The changes in the sources: `source_changes` with renames recognised and a hint for each."""

import re
from difflib import SequenceMatcher

import duckdb

from jollyboat.store import Store, quoted
from jollyboat.warehouse.warehouse import DBT

MOST_DAYS_APART, LINES_READ = 3, 1_000
LEAST_SAME, LEAST_SAME_SHAPE = 0.5, 0.9
CHANGES = """
select source, kind, field, changed_on, was_before, was_after, value_before, value_after, is_recent
from source_changes order by changed_on desc, source, kind, field limit 500
"""
# The share of each side's values that the other side has too, and the same for their shapes:
# letters become `a` and digits `9`. A random id, such as a UUID, is recognized by its length: of a
# word it differs by a digit beside a letter, or a capital after a small letter.
LIKENESS = """
with lines as (
    select filename in $before as is_before, line
    from read_csv(
        $before || $after, columns = {'line': 'VARCHAR'}, delim = e'\\x1f', quote = '', escape = '',
        header = false, auto_detect = false, strict_mode = false, null_padding = true,
        new_line = '\\n', max_line_size = 8000000, filename = true
    )
    qualify row_number() over (partition by filename) <= $lines
),
field_values as (
    select
        is_before,
        case when json_valid(line) then if(is_before, line ->> $old, line ->> $new) end as value,
        case
            when regexp_full_match(value, '[0-9.]{8,}')
                then regexp_replace(value, '[0-9]', '9', 'g')
            when regexp_full_match(value, '[0-9A-Za-z_-]{8,}')
                and regexp_matches(value, '[a-z][A-Z]|[A-Za-z].*[0-9]|[0-9].*[A-Za-z]')
                then 'random ' || length(value)
            else regexp_replace(regexp_replace(value, '\\pL+', 'a', 'g'), '\\pN+', '9', 'g')
        end as shape
    from lines where left(line, 1) = '{' and value is not null
),
sides as (
    select
        is_before,
        list(distinct value) as values,
        list(distinct shape) filter (length(shape) > 3) as shapes
    from field_values group by all
),
shares as (
    select
        avg(list_contains(values, value)::int) as same,
        avg(list_contains(shapes, shape)::int) as same_shape
    from field_values inner join sides on field_values.is_before != sides.is_before
    group by field_values.is_before
)
select min(same), coalesce(min(same_shape), 0) from shares having count(*) = 2
"""
FILES = """
select
    max_by(read_from, file_seq) filter (where arrived_on < $old_gone_on),
    min_by(read_from, file_seq) filter (where arrived_on >= $new_since)
from landed_files where source = $source and read_from is not null
"""
EMPTY_FILES = """
select file from landed_files
where source = $source and arrived_on = $day
    and line_count <= blank_count and read_from is not null
order by file limit 3
"""


def find(
    connection: duckdb.DuckDBPyConnection, store: Store, known_changes: list[dict] = ()
) -> list[dict]:
    """The rows of `source_changes`, newest first, each with `hint` and `is_news`.

    News is what is not in `known_changes`. An old field and a new one with similar values are one
    change of kind `renamed`, whose `field` is both names.
    """
    rows = connection.sql(CHANGES).df().to_dict("records")
    known_keys = {_key(row) for row in known_changes}
    for row in rows:
        row["is_news"] = _key(row) not in known_keys
    renames, paired = [], []
    for old, new in _renamed_pairs(connection, store, rows):
        if old not in paired and new not in paired:
            paired += [old, new]
            renames.append(old | _rename(old, new))
    others = [
        row | {"hint": _hint(row) + _list_empty(connection, row)}
        for row in rows
        if row not in paired
    ]
    return sorted(renames + others, key=lambda row: row["changed_on"], reverse=True)


def _key(row: dict) -> tuple[str, str, str]:
    return row["source"], row["kind"], row["field"]


def _renamed_pairs(
    connection: duckdb.DuckDBPyConnection, store: Store, rows: list[dict]
) -> list[tuple[dict, dict]]:
    """Pairs of a field that is gone and a new one with similar values; the most similar first."""
    pairs = [(old, new) for old in rows for new in rows if _may_be_renamed(old, new)]
    scored = []
    for old, new in pairs[:100]:
        same, same_shape = _likeness(connection, store, old, new)
        if same >= LEAST_SAME or same_shape >= LEAST_SAME_SHAPE:
            # Of two ids that were renamed on one day, the names tell which is which.
            names = SequenceMatcher(None, old["field"].lower(), new["field"].lower()).ratio()
            scored.append((same + same_shape + names / 10, old, new))
    return [(old, new) for _, old, new in sorted(scored, key=lambda each: -each[0])]


def _may_be_renamed(old: dict, new: dict) -> bool:
    return (
        (old["kind"], new["kind"]) == ("gone", "new")
        and old["source"] == new["source"]
        and abs((old["changed_on"] - new["changed_on"]).days) <= MOST_DAYS_APART
        and 0.5 < new["value_after"] / old["value_before"] < 2
    )


def _likeness(
    connection: duckdb.DuckDBPyConnection, store: Store, old: dict, new: dict
) -> tuple[float, float]:
    """How similar the old field's last file is to the new field's first file."""
    files = connection.execute(
        FILES,
        {
            "source": old["source"],
            "old_gone_on": old["changed_on"],
            "new_since": new["changed_on"],
        },
    ).fetchone()
    if None in files:
        return 0, 0
    before, after = ([str(store.root / file)] for file in files)
    paths = {"old": _path(old["field"]), "new": _path(new["field"])}
    parameters = {"before": before, "after": after, "lines": LINES_READ, **paths}
    try:
        return connection.execute(LIKENESS, parameters).fetchone() or (0, 0)
    except duckdb.BinderException:  # DuckDB takes no path of a name such as "Price [EUR]"
        return 0, 0


def _rename(old: dict, new: dict) -> dict:
    """The columns in which a rename differs from the row of its old field."""
    before, after, model = old["field"], new["field"], f"stg_{old['source']}__events.sql"
    path = DBT / "models" / "staging" / model
    leaf = after.strip('"').rpartition('"' if '"' in after else ".")[2]
    sql = path.read_text(encoding="utf-8") if path.exists() else ""
    if re.search(rf"\b{re.escape(leaf)}\b", sql):
        hint = f"{model} reads {after} already"
    else:
        values = ", ".join(f"record ->> '{quoted(_path(name))}'" for name in (before, after))
        hint = (
            f"write coalesce({values}) where dbt/models/staging/{model} reads {before}; "
            "then run `make data`, which reads all files again"
        )
    return {
        "kind": "renamed",
        "field": f"{before} → {after}",
        "was_after": new["was_after"],
        "is_news": old["is_news"] or new["is_news"],
        "hint": hint,
    }


def _hint(row: dict) -> str:
    path = quoted(_path(row["field"]))
    has_fewer = row["value_after"] < row["value_before"]
    volume = "every file has arrived whole" if has_fewer else "no file is there twice"
    return {
        "new": "it is in payload unless staging leaves it out; as a feature: "
        f"payload ->> '{path}' (docs/add-a-feature.md)",
        "gone": "ask who writes the logs; columns made from it are null from that day on",
        "retyped": "a value that is not a number is null where a number is needed",
        "nulls": "its features have another meaning from that day on",
        "volume": f"check that {volume}",
        "event_type": "it is kept; a feature counts it where features_at_point.sql names it",
    }[row["kind"]]


def _list_empty(connection: duckdb.DuckDBPyConnection, row: dict) -> str:
    """The empty files of a day with fewer records than usual."""
    if row["kind"] != "volume" or row["value_after"] > row["value_before"]:
        return ""
    parameters = {"source": row["source"], "day": row["changed_on"]}
    files = [f"data/{file}" for (file,) in connection.execute(EMPTY_FILES, parameters).fetchall()]
    return f"; empty: {', '.join(files)}" if files else ""


def _path(field: str) -> str:
    """The field's JSON path; in a list the path of its first item."""
    return f"$.{field.replace('[]', '[0]')}"
