"""The error that a person reads, and sentences for faults of the machine."""

from collections.abc import Iterable
from difflib import get_close_matches

# Parts of a fault's text, and the sentence for it.
FAULTS = (
    (
        ("No space left on device", "Disk quota exceeded"),
        "The disk is full ({line}). Nothing was published; "
        "make room, then run the same command again.",
    ),
    (
        (
            "java.lang.OutOfMemoryError",
            "Please increase heap size",
            "Please increase executor memory",
            "insufficient memory for the Java Runtime",
            "Could not reserve enough space",
        ),
        "Spark has too little memory ({line}). Nothing was published; raise spark_memory under "
        "[build] in project.toml, then run the same command again.",
    ),
    (
        ("All masters are unresponsive", "Master removed our application"),
        "Spark's master does not answer ({line}). Nothing was published; start it or correct "
        "spark_master under [build] in project.toml, then run the same command again.",
    ),
    (
        ("Could not set lock on file",),
        "The warehouse is open in another program ({line}). "
        "Close it, then run the same command again.",
    ),
    (
        (
            "not a valid DuckDB database file",
            "Corrupt database file",
            "Failed to load metadata pointer",
            "checksum",
        ),
        "data/warehouse.duckdb is damaged ({line}). Nothing was published; delete it, "
        "then run `make data`, which builds it again from the raw logs.",
    ),
)


class UserError(Exception):
    """Something that a person has to decide or fix: what happened, where, and what to type."""


def suggest(name: str, names: Iterable[str]) -> str:
    """A question that names the nearest of the names, or nothing."""
    close = get_close_matches(name, names, 1)
    return f" Did you mean {close[0]}?" if close else ""


def explain(fault: str) -> str | None:
    """The sentence for a full disk, or a warehouse that is locked or damaged; else None.

    `fault` is an error's text or a log that contains it.
    """
    for signs, sentence in FAULTS:
        lines = [line.strip() for line in fault.splitlines() if any(sign in line for sign in signs)]
        if lines:
            return sentence.format(line=lines[-1].rstrip(".")[:300])
    return None
