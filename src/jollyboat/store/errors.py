"""The one error that a person reads, and what faults of the machine mean in a sentence."""

FULL = ("No space left on device", "Disk quota exceeded")
LOCKED = ("Could not set lock on file",)
DAMAGED = (
    "not a valid DuckDB database file",
    "Corrupt database file",
    "Failed to load metadata pointer",
    "checksum",
)


class UserError(Exception):
    """Something that a person has to decide or fix: what happened, where, and what to type."""


def explain(fault: str) -> str | None:
    """What mends a full disk, or a warehouse that is open elsewhere or damaged; None for any other fault.

    `fault` is an error's text or a log that holds it.
    """
    if line := _line_with(FULL, fault):
        return f"The disk is full ({line}). Nothing was published; make room, then run the same command again."
    if line := _line_with(LOCKED, fault):
        return f"The warehouse is open in another program ({line}). Close it, then run the same command again."
    if line := _line_with(DAMAGED, fault):
        return (
            f"data/warehouse.duckdb is damaged ({line}). Nothing was published; delete it, then `make data` builds it "
            "again from the raw logs."
        )
    return None


def _line_with(signs: tuple[str, ...], text: str) -> str | None:
    found = [line.strip() for line in text.splitlines() if any(sign in line for sign in signs)]
    return found[-1].rstrip(".")[:300] if found else None
