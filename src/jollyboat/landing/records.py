"""One raw file as bytes: is it whole, how many lines has it, and can SQL read it as it is?

SQL's line reader would misread some files: invalid UTF-8, control characters, CRLF, very long
lines, CSV, Parquet. It reads a copy of them as JSON lines. In the copy a line that the reader would
misread is `["<reason>", "<the line>"]`, so each line keeps its number.
"""

import codecs
import csv
import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from jollyboat.store import hash_file, quoted, replacing

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet")
CHUNK = 1 << 20
LONGEST_LINE = 2 * CHUNK
KEPT_OF_A_BAD_LINE = 10_000
LONGEST_CSV_RECORD = 50  # lines
UNSAFE = (b"\r", b"\0", b"\x1f")
GLOB = set("*?[]{}")
NEWLINE = ord("\n")
# The flags of a gzip header other than "extra fields" and "name".
ODD_FLAGS = [bytes([flags]) for flags in range(256) if flags & ~0b01100]
GZIP = 16 + zlib.MAX_WBITS  # zlib's number for the gzip format
QUOTED = re.compile('"[^"]*"')
DEEPEST = 1_000  # levels of nesting; DuckDB crashes at some tens of thousands
DEPTH = [{ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}.get(byte, 0) for byte in range(256)]

csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True)
class Inspection:
    """The counts and hash of a file's bytes.

    `damage`: why the whole file cannot be read. `copy`: the file to read in its place.
    """

    bytes: int
    modified_ns: int
    sha256: str
    line_count: int = 0
    blank_count: int = 0
    copy: Path | None = None
    damage: str | None = None


class _NotParquet(Exception):
    pass


class _OddGzip(Exception):
    """A gzip that DuckDB may not unzip as Python does."""


def inspect_file(path: Path, copies: Path) -> Inspection:
    """Read a file once; write a copy as JSON lines below `copies` only if SQL needs one."""
    try:
        str(path).encode()
        status = path.stat()
        sha256 = hash_file(path) if path.is_file() else None
    except (OSError, UnicodeEncodeError):
        sha256 = None
    if sha256 is None:  # a broken link, a link to a folder, a pipe, no permission, a name in bytes
        status = path.lstat()
        return Inspection(status.st_size, status.st_mtime_ns, "", damage="unreadable_file")
    figures = (status.st_size, status.st_mtime_ns, sha256)
    if not path.name.endswith(SUFFIXES):
        return Inspection(*figures, damage="unknown_format")
    copy = copies / f"{hashlib.sha256(f'{path}|{sha256}'.encode()).hexdigest()}.jsonl"
    try:
        return Inspection(*figures, *_count_or_copy(path, copy))
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return Inspection(*figures, damage="damaged_gzip")
    except _NotParquet:
        return Inspection(*figures, damage="damaged_parquet")
    except csv.Error:  # in the header, without which no row can be read
        return Inspection(*figures, damage="unparsable")


def _count_or_copy(path: Path, copy: Path) -> tuple[int, int, Path | None]:
    """Lines, empty lines, and the copy if there is one."""
    if path.suffix == ".parquet":
        return _copy_parquet(path, copy), 0, copy
    if is_csv(path):
        return *_write_copy(copy, csv_records(path)), copy
    with suppress(_OddGzip):
        line_count, blank_count, is_clean = _count_lines(path)
        if is_clean:
            return line_count, blank_count, None
    return *_write_copy(copy, _repaired_lines(path)), copy


def is_csv(path: Path) -> bool:
    """Whether a raw file is CSV by its name."""
    return path.name.removesuffix(".gz").endswith(".csv")


def open_raw(path: Path):
    """The bytes of a raw file, unzipped if it is a gzip."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _count_lines(path: Path) -> tuple[int, int, bool]:
    """Lines, empty lines, and whether SQL's reader sees the same lines.

    A last line without a newline counts.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    count = blank = 0
    unfinished = 0  # bytes of the last line, which has no newline yet
    is_clean = not GLOB & set(str(path))
    for chunk in _chunks(path):
        if count == unfinished == 0 and chunk.startswith(codecs.BOM_UTF8):
            is_clean = False
        edges = np.flatnonzero(np.frombuffer(b"\n%b\n" % chunk, np.uint8) == NEWLINE)
        lengths = np.diff(edges) - 1
        lengths[0] += unfinished
        is_clean = is_clean and _is_clean(chunk, edges, lengths) and _is_utf8(decoder, chunk)
        *finished, unfinished = lengths.tolist()
        count, blank = count + len(finished), blank + finished.count(0)
    is_clean = is_clean and _is_utf8(decoder, b"", final=True)
    return count + (unfinished > 0), blank, is_clean


def _is_clean(chunk: bytes, edges: np.ndarray, lengths: np.ndarray) -> bool:
    if lengths.max() > LONGEST_LINE or any(byte in chunk for byte in UNSAFE):
        return False
    long = np.flatnonzero(lengths > DEEPEST)
    return not any(_is_deep(chunk[edges[place] : edges[place + 1] - 1]) for place in long)


def _is_utf8(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a raw file in parts; raises _OddGzip.

    One gzip that DuckDB cannot read fails its scan of all files: an empty one, one padded with
    zeros, one with odd flags, or one of several members.
    """
    with path.open("rb") as file:
        if path.suffix != ".gz":
            yield from iter(lambda: file.read(CHUNK), b"")
            return
        if file.peek(4)[3:4] in (b"", *ODD_FLAGS):
            raise _OddGzip
        unzip = zlib.decompressobj(GZIP)
        try:
            while not unzip.eof and (zipped := unzip.unconsumed_tail or file.read(CHUNK // 4)):
                chunk = unzip.decompress(zipped, CHUNK)
                if chunk:
                    yield chunk
        except zlib.error as error:
            raise _OddGzip from error
        if not unzip.eof or unzip.unused_data or file.read(1):
            raise _OddGzip


def _repaired_lines(path: Path) -> Iterator[str]:
    with open_raw(path) as file:
        for number, raw in enumerate(file):
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            yield _repaired(line)


def _repaired(line: bytes) -> str:
    if len(line) > LONGEST_LINE:
        return _bad("line_too_long", line)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return _bad("invalid_utf8", line)
    if any(byte in line for byte in UNSAFE):
        return _bad("control_character", line)
    if _is_deep(line):
        return _bad("unparsable", line)
    return _bad("not_an_object", line) if text.lstrip().startswith("[") else text


def _is_deep(line: bytes) -> bool:
    if len(line) <= DEEPEST or line.count(b"{") + line.count(b"[") <= DEEPEST:
        return False
    return max(accumulate(DEPTH[byte] for byte in line)) > DEEPEST


def _bad(reason: str, line: bytes | str) -> str:
    if isinstance(line, bytes):
        line = line[: KEPT_OF_A_BAD_LINE * 4].decode("utf-8", "replace")
    return json.dumps([reason, line[:KEPT_OF_A_BAD_LINE]], ensure_ascii=False)


def csv_records(path: Path) -> Iterator[str]:
    """Each row as a JSON object with the header's names; a row of another width is a bad line."""
    return (record for record, _ in spanned_csv_records(path))


def spanned_csv_records(path: Path) -> Iterator[tuple[str, int]]:
    """The same records, each with the number of lines that it spans, from below the header on."""
    lines = _repaired_text(path)
    header_line = next(lines, "")
    delimiter = max(",;\t|", key=QUOTED.sub("", header_line).count)
    header = _unique(next(csv.reader([header_line], delimiter=delimiter), []))
    waiting: list[str] = []
    for line in lines:
        waiting.append(line)
        yield from _take_records(waiting, delimiter, header)
    yield from _take_records(waiting, delimiter, header, is_last=True)


def _unique(names: list[str]) -> list[str]:
    """The names of the columns; a repeated name gets the number of its column."""
    first = {name: place for place, name in reversed([*enumerate(names)])}
    return [
        name if first[name] == place else f"{name}_{place + 1}" for place, name in enumerate(names)
    ]


def _take_records(
    waiting: list[str], delimiter: str, header: list[str], is_last: bool = False
) -> Iterator[tuple[str, int]]:
    """Remove the complete records from the waiting lines, and yield each with its line count."""
    while waiting:
        row, line_count = _first_row(waiting, delimiter, len(header), is_last)
        if not line_count:
            return
        record = "\n".join(waiting[:line_count])
        del waiting[:line_count]
        if row is None:
            yield _bad("csv_width", record) if record.strip() else "", line_count
            continue
        text = json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False)
        is_long = len(text.encode()) > LONGEST_LINE
        yield _bad("line_too_long", record) if is_long else text, line_count


def _first_row(
    waiting: list[str], delimiter: str, width: int, is_last: bool
) -> tuple[list[str] | None, int]:
    """The first row and its number of lines.

    The number is 0 while a quote is open. The row is None if the first line is bad.
    """
    if '"' not in waiting[0]:
        row = waiting[0].split(delimiter)
        return (row if len(row) == width else None), 1
    quote_counts = accumulate(line.count('"') for line in waiting)
    line_count = next((place for place, count in enumerate(quote_counts, 1) if count % 2 == 0), 0)
    if not line_count:
        return None, int(is_last or len(waiting) >= LONGEST_CSV_RECORD)
    try:
        text = "\n".join(waiting[:line_count])
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error:
        return None, 1
    return (rows[0], line_count) if len(rows) == 1 and len(rows[0]) == width else (None, 1)


def _repaired_text(path: Path) -> Iterator[str]:
    with open_raw(path) as file:
        for number, raw in enumerate(file):
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            text = line.decode("utf-8", "replace").replace("\0", "\ufffd")
            yield text.removeprefix("\ufeff") if number == 0 else text


def _write_copy(copy: Path, lines: Iterator[str]) -> tuple[int, int]:
    count = blank = 0
    with replacing(copy) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count, blank = count + 1, blank + (not line)
    return count, blank


def _copy_parquet(path: Path, copy: Path) -> int:
    import duckdb

    try:
        with duckdb.connect() as connection, replacing(copy) as draft:
            source = connection.read_parquet(glob.escape(str(path)), hive_partitioning=False)
            (count,) = source.count("*").fetchone()
            connection.execute(f"copy source to '{quoted(draft)}' (format json)")
    except duckdb.Error as error:
        raise _NotParquet(str(error)) from error
    *_, is_clean = _count_lines(copy)
    if not is_clean:
        _write_copy(copy, _repaired_lines(copy))
    return count
