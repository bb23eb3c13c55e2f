"""Texts as SQL writes them."""

from collections.abc import Iterable


def quoted(text: object) -> str:
    """A text escaped for single quotes in SQL, where a statement takes no parameter."""
    return str(text).replace("'", "''")


def unused_name(name: str, columns: Iterable[str]) -> str:
    """A name for a helper column beside a user's columns: `name`, with `_` while one has it."""
    taken = {column.lower() for column in columns}
    while name in taken:
        name += "_"
    return name
