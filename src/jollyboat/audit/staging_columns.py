"""A column of a staging model with almost a canonical name is refused before the build."""

import re
from difflib import get_close_matches
from pathlib import Path

from jollyboat.store import UserError
from jollyboat.warehouse.event_columns import EVENT_COLUMNS

CANONICAL = {*EVENT_COLUMNS, "left_out"}
KNOWN = {*CANONICAL, "part", "file", "file_seq", "arrived_on", "line_number", "line", "record"}
ALIAS = re.compile(r'\bas\s+"?([a-z_]\w*)\b(?!\s*\()', re.IGNORECASE)
# Comments, and texts: neither names a column.
OTHER_TEXT = re.compile(r"{#.*?#}|--[^\n]*|'(?:[^']|'')*'", re.DOTALL)
ANY_NAME = re.compile(r"{%-?\s*for\b|\bas\s+{{")  # such Jinja can make a column of any name


def check_staging(dbt: Path) -> None:
    """Raise UserError with file and line if a staging model misspells a canonical column.

    That is a column that the model uses nowhere else, with a name close to a canonical column that
    the model does not give. canonical_events() ignores it without a word.
    """
    for path in sorted(dbt.glob("models/**/stg_*__events.sql")):
        sql = OTHER_TEXT.sub(_blank, path.read_text(encoding="utf-8"))
        words = re.findall(r"\w+", sql.lower())
        missing = CANONICAL.difference(words)
        aliases = [] if ANY_NAME.search(sql) else list(ALIAS.finditer(sql))
        names = [alias[1].lower() for alias in aliases]
        for alias, name in zip(aliases, names, strict=True):
            near = get_close_matches(name, missing, 1, 0.8)
            if near and name not in KNOWN and words.count(name) == names.count(name):
                line = sql.count("\n", 0, alias.start()) + 1
                raise UserError(
                    f"{path.relative_to(dbt.parent)}, line {line}: the column {alias[1]} is not "
                    f"canonical; did you mean {near[0]}? Other columns belong into payload. Rename "
                    "or delete the column, then run `make data`."
                )


def _blank(text: re.Match) -> str:
    """The text's ends of line alone, so that numbers of lines stay."""
    return "\n" * text[0].count("\n")
