"""Texts as SQL writes and hashes them."""

import hashlib


def hash_text(text: str, salt: str) -> str:
    """A personal text as the tables keep it: 32 hex digits, as by dbt's macro of this name."""
    return hashlib.sha256(f"{salt}{text}".encode()).hexdigest()[:32]


def quoted(text: object) -> str:
    """A text escaped for single quotes in SQL, where a statement takes no parameter."""
    return str(text).replace("'", "''")
