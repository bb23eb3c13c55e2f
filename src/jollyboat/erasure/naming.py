"""Whether a text, a row or a file names one of some ids, as it reads when it is decoded."""

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import duckdb
from markupsafe import escape

from jollyboat.store import quoted

LETTER = "[A-Za-z0-9_@+-]"
WORD = rf"{LETTER}+(?:[.]+{LETTER}+)*"
# In a pickle a text's length, one byte, may stand before it and look like a letter.
BEFORE, AFTER = f"(?s)(?:^|[^{LETTER[1:-1]}]|\ufffd.)", f"(?:$|[^{LETTER[1:-1]}])"
WORDS = f"(select *, unnest(list_append(regexp_extract_all(text, '{WORD}'), '')) as word from ({{rows}})) as told"
IS_NAMED = (
    "told.word = ids.word and (ids.pattern is null or regexp_matches(told.text, ids.pattern))"
)
ROWS = f"select told.* exclude (text, word) from {WORDS} inner join ids on {IS_NAMED} "  # a semi join would not hash
NAMED = f"select distinct ids.id from {WORDS} inner join ids on {IS_NAMED}"


class Ids:
    """Ids to look for, known by the longest word in each: only a text that has this word is searched for the whole."""

    def __init__(self, ids: Iterable[str]):
        self._patterns: dict[str, set[tuple[str | None, str]]] = {}
        for spelling, told in {(spelling, one) for one in ids for spelling in _spellings(one)}:
            word = max(re.findall(WORD, spelling), key=len, default="")
            pattern = None if spelling == word else BEFORE + re.escape(spelling) + AFTER
            self._patterns.setdefault(word, set()).add((pattern, told))

    def named(self, text: str) -> set[str]:
        """Those of them that the text names."""
        return set(self._named(text))

    def in_text(self, text: str) -> bool:
        """Whether the text names one of them."""
        return any(True for _ in self._named(text))

    def _named(self, text: str) -> Iterator[str]:
        words = set(re.findall(WORD, text))
        found = (words | {word[1:] for word in words} | {""}) & self._patterns.keys()
        told = (each for word in found for each in self._patterns[word])
        return (one for pattern, one in told if pattern is None or re.search(pattern, text))

    def rows(self, connection: duckdb.DuckDBPyConnection, rows: str) -> str:
        """SQL, to be run in this connection: those `rows`, less their column `text`, in which it names one of them.

        A row that names several of them stands there as often.
        """
        self._load(connection)
        return ROWS.format(rows=rows)

    def named_in(self, connection: duckdb.DuckDBPyConnection, rows: str) -> set[str]:
        """Those of them that the column `text` of these rows names."""
        self._load(connection)
        return {one for (one,) in connection.execute(NAMED.format(rows=rows)).fetchall()}

    def _load(self, connection: duckdb.DuckDBPyConnection) -> None:
        told = [(word, *each) for word, some in self._patterns.items() for each in some]
        words, patterns, ids = zip(*told, strict=True) if told else ([], [], [])
        connection.execute(
            "create or replace temp table ids as select unnest(cast($words as varchar[])) as word, "
            "unnest(cast($patterns as varchar[])) as pattern, unnest(cast($ids as varchar[])) as id",
            {"words": list(words), "patterns": list(patterns), "ids": list(ids)},
        )

    def in_file(self, path: Path) -> bool:
        """Whether the file names one of them: tables decoded, what is zipped unzipped."""
        if path.suffix not in (".parquet", ".duckdb"):
            content = path.read_bytes()
            if content[:2] == b"\x1f\x8b":
                try:
                    content = gzip.decompress(content)
                except (OSError, EOFError):
                    return True  # it cannot be known
            return self.in_text(content.decode("utf-8", "replace"))
        with duckdb.connect() as connection:
            tables = [f"read_parquet('{quoted(path)}', hive_partitioning = false)"]
            if path.suffix == ".duckdb":
                connection.execute(f"attach '{quoted(path)}' as built (read_only)")
                names = "select table_name from duckdb_tables() where database_name = 'built'"
                tables = [f'built."{name}"' for (name,) in connection.sql(names).fetchall()]
            texts = [
                f"select 1 as one, cast(t as varchar) as text from {table} as t" for table in tables
            ]
            return any(
                connection.execute(self.rows(connection, each) + "limit 1").fetchall()
                for each in texts
            )


def _spellings(one: str) -> set[str]:
    """An id as it stands in a text, in JSON, in a page and in an address."""
    in_json = {json.dumps(one, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    return {one, *in_json, str(escape(one)), quote(one, safe="")}
