"""The staging model of a plain CSV, from its header."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from jollyboat.store import quoted

EXAMPLE = ("timestamp", "visitor_id", "event", "product_id", "price")
WITHOUT_A_FILE = (
    "There is no CSV of this source yet, so the model has examples: write the columns of yours, "
    "or remove the model and the source's name, and run this again when the files are there."
)
REQUIRED = {
    "occurred_at": "when it happened",
    "anonymous_id": "who did it, unless user_id says so",
    "event_type": "what happened",
}
# The names of columns, in lower case, that are safe to map. Others of the same name are themselves.
NAMES = {
    "tenant_id": ("tenant_id", "tenant"),
    "event_id": ("event_id", "message_id"),
    "occurred_at": ("occurred_at", "timestamp", "ts", "event_time", "datetime", "time", "when"),
    "received_at": ("received_at",),
    "anonymous_id": ("anonymous_id", "visitor_id", "visitor", "device_id", "client_id"),
    "user_id": ("user_id", "customer_id", "uid"),
    "session_id": ("session_id",),
    "event_type": ("event_type", "event_name", "event", "action"),
    "order_id": ("order_id",),
    "product_id": ("product_id", "sku"),
    "price": ("price",),
    "quantity": ("quantity", "qty"),
    "currency": ("currency",),
    "category": ("category",),
    "query": ("query", "search_term"),
    "page": ("page",),
    "url": ("url", "page_url"),
    "referrer": ("referrer", "referer"),
    "channel": ("channel", "utm_medium"),
    "device": ("device",),
    "country": ("country",),
}
MODEL = """with records as (
    select * from {{{{ jollyboat.raw_records() }}}}
),

mapped as (
    select
        *,
{rest}{columns}
    from records
)

{{{{ jollyboat.canonical_events('mapped') }}}}
"""
REST = """        -- These columns are in payload. Name and uncomment what you need, such as page
        -- or price: `jollyboat docs bring-your-own-logs`.
"""


def read_columns(folder: Path) -> list[str]:
    """The columns of the newest CSV below the source's raw folder; none if there is no row."""
    from jollyboat.landing.records import csv_records, is_csv

    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_csv(path)]
    with suppress(OSError, EOFError, csv.Error):
        records = csv_records(files[-1]) if files else iter(())
        return list(json.loads(next((each for each in records if each[:1] == "{"), "{}")))
    return []


def map_columns(columns: Sequence[str]) -> dict[str, str]:
    """The column of the CSV for each canonical column whose name is obvious."""
    by_word = {_word(column): column for column in reversed(columns)}
    return {
        canonical: by_word[word]
        for canonical, names in NAMES.items()
        for word in [next((name for name in names if name in by_word), None)]
        if word
    }


def write_model(source: str, columns: Sequence[str]) -> str:
    """The staging model: obvious columns are mapped, and all others are comments."""
    mapped = map_columns(columns)
    lines = [] if "tenant_id" in mapped else [f"'{source}' as tenant_id"]
    lines += [f"{_read(column)} as {canonical}" for canonical, column in mapped.items()]
    lines += [f"null as {canonical}" for canonical in _find_missing(mapped)]
    # Jinja would read a brace, and a comment ends with its line.
    others = [
        f"        -- {_read(column)} as name_it,\n"
        for column in columns
        if column not in mapped.values() and column.isprintable() and "{" not in column
    ]
    return MODEL.format(
        rest=REST + "".join(others) if others else "",
        columns=",\n".join(f"        {line}" for line in lines),
    )


def describe_model(columns: Sequence[str]) -> str:
    """What the model maps, and what is left to the reader."""
    mapped = map_columns(columns)
    pairs = ", ".join(f"{column} as {canonical}" for canonical, column in mapped.items())
    missing = [f"{canonical} ({REQUIRED[canonical]})" for canonical in _find_missing(mapped)]
    null = f" Write what is required and null: {', '.join(missing)}." if missing else ""
    return f"It reads {pairs or 'no column yet'}; all other columns are comments in it.{null}"


def _find_missing(mapped: Mapping[str, str]) -> list[str]:
    given = {*mapped, "anonymous_id"} if "user_id" in mapped else mapped
    return [canonical for canonical in REQUIRED if canonical not in given]


def _word(column: str) -> str:
    """The name in lower case with underscores, also of a name such as eventType."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column.strip())).lower()


def _read(column: str) -> str:
    # DuckDB takes a name that begins with $ or / for a path.
    path = f'$."{column}"' if column[:1] in ("$", "/") else column
    return f"record ->> '{quoted(path)}'"
