"""The records of a raw file as bytes, numbered as the landing numbers them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from jollyboat.landing import records


def numbered_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each record of a file that is no Parquet; a CSV's header has the number 0.

    The objects of a JSON array are one to a line.
    """
    if records.is_csv(path):
        yield from _csv_records(path)
    elif records.is_json_values(path):
        for number, record in enumerate(records.json_records(path), 1):
            yield number, f"{record}\n".encode()
    else:
        with records.open_raw(path) as file:
            yield from enumerate(file, 1)


def _csv_records(path: Path) -> Iterator[tuple[int, bytes]]:
    with records.open_raw(path) as file:
        if records.has_header(path):
            yield 0, next(file)
        for number, (_, span) in enumerate(records.spanned_csv_records(path), 1):
            yield number, b"".join(islice(file, span))
