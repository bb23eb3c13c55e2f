"""Texts as the warehouse's SQL has them."""

import hashlib


def hash_text(text: str, salt: str) -> str:
    """A personal text as the tables keep it: the same 32 hex digits as by dbt's macro of this name."""
    return hashlib.sha256(f"{salt}{text}".encode()).hexdigest()[:32]


def quoted(text: object) -> str:
    """A text as it stands between single quotes in SQL, where no parameter may."""
    return str(text).replace("'", "''")
