"""The fields that a staging model reads and no record of its source has."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

import duckdb

from jollyboat.warehouse.warehouse import DBT

MOST_LINES, MOST_NAMES = 8, 12
# One structure of all records, in which a conflict of types is "JSON". An unknown is no conflict.
SOURCES = """
with sources as (
    select
        source,
        count(*) as record_count,
        count(structure) as sampled_count,
        count_if(reason is null) as event_count
    from int_records where part <= 1 group by source
),
structures as (select distinct source, structure from int_records where structure is not null),
merged as (
    select source, json_group_structure(
        replace(replace(structure, ':"NULL"', ':null'), '["NULL"]', '[null]')::json) as structure
    from structures group by source
)
select sources.*, structure from sources inner join merged using (source) order by source
"""
TEXT = r"'(?:[^']|'')*'"
COMMENT = re.compile(r"{#.*?#}|--[^\n]*", re.DOTALL)
CHAIN = re.compile(
    rf"\brecord(?P<keys>(?:\s*->>?\s*{TEXT})+)"
    rf"|\bjson_extract(?:_string)?\(\s*record\s*,\s*(?P<path>{TEXT})"
)
TRANSFORM = re.compile(rf"\bjson_transform\w*\(\s*record\s*,\s*({TEXT})")
STEP = re.compile(r'\."([^"*]+)"|\.([^."*\[\]]+)|(\[)\d+\]')
LIST = "[]"  # the step into a list


def find(connection: duckdb.DuckDBPyConnection, dbt: Path = DBT) -> list[dict]:
    """The fields that a staging model reads and no record has, each with the nearest one.

    A field is in the list if it is on the first level, or if it is near a field that the model
    does not read: an optional field of a group is often in no record. An alternative, in coalesce()
    or json_transform(), also has to be near one. If no record of the source is an event, any field
    counts. A sample of the records has the fields; a field that the sample lacks is searched for
    in all payloads.
    """
    absent = []
    for row in connection.sql(SOURCES).df().to_dict("records"):
        structure = json.loads(row.pop("structure"))
        for path in dbt.glob(f"models/**/stg_{row['source']}__events.sql"):
            for each in _compare(read_fields(path.read_text(encoding="utf-8")), structure, row):
                if not _is_anywhere(connection, row["source"], each["name"]):
                    absent.append(row | each | {"model": path.name})
    return absent


def format_absent(absent: list[dict]) -> list[str]:
    """A line for each field, with the nearest field and all fields beside it."""
    lines = []
    for row in absent[:MOST_LINES]:
        hint = f"; did you mean {row['nearest']!r}?" if row["nearest"] else ""
        is_sample = row["sampled_count"] < row["record_count"]
        records = f"{row['sampled_count']:,} {'sampled records' if is_sample else 'records'}"
        more = ", ..." if len(row["fields"]) > MOST_NAMES else ""
        lines.append(
            f"note: {row['model']} reads {row['field']!r}, which none of {records} of "
            f"{row['source']} has{hint} (fields: {', '.join(row['fields'][:MOST_NAMES])}{more})"
        )
    if len(absent) > MOST_LINES:
        lines.append(f"note: and {len(absent) - MOST_LINES} more fields that no record has")
    return lines


def read_fields(sql: str) -> dict[tuple[str, ...], bool]:
    """The paths of the fields that a staging model reads from `record`.

    True is an alternative, which need not be there. Paths that Jinja makes and paths with a
    wildcard are left out, and so is every path of a model that changes `record`.
    """
    sql = COMMENT.sub("", sql)
    fields: dict[tuple[str, ...], bool] = {}
    if re.search(r"\bas\s+record\b", sql):
        return fields
    for each in TRANSFORM.finditer(sql):
        with suppress(ValueError):
            fields |= dict.fromkeys(_leaves(json.loads(_unquote(each[1]))), True)
    for each in CHAIN.finditer(sql):
        keys = re.findall(TEXT, each["keys"] or each["path"])
        steps = [_steps(_unquote(key)) for key in keys]
        if None not in steps:
            path = tuple(step for part in steps for step in part)
            fields[path] = fields.get(path, True) and _is_in_coalesce(sql, each.start())
    return fields


def _unquote(text: str) -> str:
    return text[1:-1].replace("''", "'")


def _steps(key: str) -> list[str] | None:
    """The steps of a key or a path; None if they are not known."""
    if "{" in key or key.startswith("/"):
        return None
    if not key.startswith("$"):
        return [key]
    if STEP.sub("", key) != "$":
        return None
    return [quoted or plain or LIST for quoted, plain, _ in STEP.findall(key)]


def _leaves(structure: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(structure, dict):
        for name, inner in structure.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(structure, list) and structure:
        yield from _leaves(structure[0], (*path, LIST))
    else:
        yield path


def _is_in_coalesce(sql: str, place: int) -> bool:
    depth = 0
    for at in range(place - 1, -1, -1):
        depth += (sql[at] == ")") - (sql[at] == "(")
        if depth < 0:
            if sql[:at].lower().endswith("coalesce"):
                return True
            depth = 0
    return False


def _compare(fields: dict[tuple[str, ...], bool], structure: object, row: dict) -> Iterator[dict]:
    """The fields that the structure of all records lacks, as `find` counts them."""
    for path, is_alternative in fields.items():
        place, beside = _first_absent(structure, path)
        if not beside:
            continue
        parent, name = path[:place], path[place]
        is_certain = not is_alternative and (place == 0 or not row["event_count"])
        unread = [each for each in beside if is_certain or (*parent, each) not in fields]
        by_word = {each.lower(): each for each in unread}
        near = get_close_matches(name.lower(), by_word, 1, 0.6 if is_certain else 0.8)
        if is_certain or near:
            yield {
                "name": name,
                "field": ".".join([*parent, name]),
                "nearest": ".".join([*parent, by_word[near[0]]]) if near else "",
                "fields": list(beside),
            }


def _first_absent(structure: object, path: tuple[str, ...]) -> tuple[int, dict]:
    """The place of the first step that no record has, and the fields beside it, if any."""
    for place, step in enumerate(path):
        if isinstance(structure, list) and step == LIST:
            structure = structure[0]
        elif isinstance(structure, dict) and step != LIST:
            if step not in structure:
                return place, structure
            structure = structure[step]
        else:
            break
    return 0, {}


def _is_anywhere(connection: duckdb.DuckDBPyConnection, source: str, name: str) -> bool:
    return bool(
        connection.execute(
            "select 1 from int_records where source = $source "
            "and contains(coalesce(line, payload), $name) limit 1",
            {"source": source, "name": json.dumps(name, ensure_ascii=False)},
        ).fetchone()
    )
