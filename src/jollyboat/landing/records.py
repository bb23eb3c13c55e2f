"""One raw file as bytes: is it whole, how many lines has it, and can the reader take it as it is?

A file that SQL's line reader would misread (invalid UTF-8, control characters, CRLF, over-long lines, CSV, Parquet) is
read from a copy of JSON lines. A line that cannot stand in it as itself stands there as `["<reason>", "<the line>"]`,
so that it keeps its number and costs only itself.
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
from itertools import accumulate, chain
from pathlib import Path

import numpy as np

from jollyboat.store import hash_file, quoted, replacing

SUFFIXES = (
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".jsonl.gz",
    ".ndjson.gz",
    ".json.gz",
    ".csv.gz",
    ".parquet",
)
CHUNK = 1 << 20
LONGEST_LINE = 2 * CHUNK
KEPT_OF_A_BAD_LINE = 10_000
LONGEST_CSV_RECORD = 50
UNSAFE = (b"\r", b"\0", b"\x1f")
GLOB = set("*?[]{}")
NEWLINE = ord("\n")
ODD_FLAGS = [
    bytes([flags]) for flags in range(256) if flags & ~0b01100
]  # of a gzip: others than more fields, a name
GZIP = 16 + zlib.MAX_WBITS  # what zlib calls the format with its header
QUOTED = re.compile('"[^"]*"')
DEEPEST = 1_000  # groups within groups: at some tens of thousands DuckDB ends without a word
DEPTH = [{ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}.get(byte, 0) for byte in range(256)]

csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True)
class Inspection:
    """What the bytes of a file say; `damage` is why the whole file cannot be read, `copy` what to read in its place."""

    bytes: int
    modified_ns: int
    sha256: str
    line_count: int
    blank_count: int
    copy: Path | None
    damage: str | None


def inspect_file(path: Path, copies: Path) -> Inspection:
    """Pass over a file once; write a copy of JSON lines below `copies` only where the reader needs one."""
    try:
        str(path).encode()
        status = path.stat()
        sha256 = hash_file(path) if path.is_file() else None
    except (OSError, UnicodeEncodeError):
        sha256 = None
    if (
        sha256 is None
    ):  # a link that leads nowhere or to a folder, a pipe, a permission, a name that is not UTF-8
        status = path.lstat()
        return Inspection(status.st_size, status.st_mtime_ns, "", 0, 0, None, "unreadable_file")
    seen = (status.st_size, status.st_mtime_ns, sha256)
    if not path.name.endswith(SUFFIXES):
        return Inspection(*seen, 0, 0, None, "unknown_format")
    copy = copies / f"{hashlib.sha256(f'{path}|{sha256}'.encode()).hexdigest()}.jsonl"
    try:
        if path.suffix == ".parquet":
            return Inspection(*seen, _copy_parquet(path, copy), 0, copy, None)
        if is_csv(path):
            return Inspection(*seen, *_write_copy(copy, csv_records(path)), copy, None)
        with suppress(_OddGzip):
            line_count, blank_count, is_clean = _count_lines(path)
            if is_clean:
                return Inspection(*seen, line_count, blank_count, None, None)
        return Inspection(*seen, *_write_copy(copy, _repaired_lines(path)), copy, None)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return Inspection(*seen, 0, 0, None, "damaged_gzip")
    except _NotParquet:
        return Inspection(*seen, 0, 0, None, "damaged_parquet")
    except csv.Error:  # of the header, without which no row can be read
        return Inspection(*seen, 0, 0, None, "unparsable")


class _NotParquet(Exception):
    pass


class _OddGzip(Exception):
    pass


def is_csv(path: Path) -> bool:
    """Whether a raw file is CSV by its name."""
    return path.name.removesuffix(".gz").endswith(".csv")


def open_raw(path: Path):
    """The bytes of a raw file, unzipped where it is zipped."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _count_lines(path: Path) -> tuple[int, int, bool]:
    """Lines (a last one without newline counts), empty ones, and whether the reader sees the same: UTF-8, short."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    count, blank, begun, is_clean = (
        0,
        0,
        0,
        not GLOB & set(str(path)),
    )  # begun: the bytes of a line without its end
    for chunk in _chunks(path):
        if count == begun == 0 and chunk.startswith(codecs.BOM_UTF8):
            is_clean = False
        edges = np.flatnonzero(np.frombuffer(b"\n%b\n" % chunk, np.uint8) == NEWLINE)
        lengths = np.diff(edges) - 1
        deep = any(
            _is_deep(chunk[edges[place] : edges[place + 1] - 1])
            for place in np.flatnonzero(lengths > DEEPEST)
        )
        lengths[0] += begun
        is_clean = (
            is_clean
            and not deep
            and not any(byte in chunk for byte in UNSAFE)
            and lengths.max() <= LONGEST_LINE
        )
        if is_clean:
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                is_clean = False
        *ended, begun = lengths.tolist()
        count, blank = count + len(ended), blank + ended.count(0)
    if is_clean:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            is_clean = False
    return count + (begun > 0), blank, is_clean


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a raw file, a part after the other; _OddGzip where DuckDB may not unzip it as Python does.

    One gzip that it cannot read fails its scan of all files: of no byte, padded with zeros, or of odd flags; of several
    members each has flags, and zeros may stand between them.
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
                if chunk := unzip.decompress(zipped, CHUNK):
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
    text = (
        line if isinstance(line, str) else line[: KEPT_OF_A_BAD_LINE * 4].decode("utf-8", "replace")
    )
    return json.dumps([reason, text[:KEPT_OF_A_BAD_LINE]], ensure_ascii=False)


def csv_records(path: Path) -> Iterator[str]:
    """Each row as a JSON object under the file's own header; a row of another width is a bad record of its own."""
    return (record for record, _ in spanned_csv_records(path))


def spanned_csv_records(path: Path) -> Iterator[tuple[str, int]]:
    """The same records, each with how many of the file's lines it spans, from the one below the header on."""
    lines = _repaired_text(path)
    header_line = next(lines, "")
    delimiter = max(",;\t|", key=QUOTED.sub("", header_line).count)
    names = next(csv.reader([header_line], delimiter=delimiter), [])
    first = {name: place for place, name in reversed([*enumerate(names)])}
    header = [
        name if first[name] == place else f"{name}_{place + 1}" for place, name in enumerate(names)
    ]
    waiting: list[str] = []
    for line in chain(lines, [None]):
        waiting += [line] if line is not None else []
        while waiting and (
            taken := _take_record(waiting, delimiter, len(header), is_last=line is None)
        ):
            row, used = taken
            record = "\n".join(waiting[:used])
            del waiting[:used]
            if row is not None:
                text = json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False)
                yield (
                    text if len(text.encode()) <= LONGEST_LINE else _bad("line_too_long", record),
                    used,
                )
            else:
                yield _bad("csv_width", record) if record.strip() else "", used


def _take_record(
    waiting: list[str], delimiter: str, width: int, is_last: bool
) -> tuple[list[str] | None, int] | None:
    """The next row and how many lines it spans; None while its quotes are open; a row of None is a bad first line."""
    if '"' not in waiting[0]:
        row = waiting[0].split(delimiter)
        return (row if len(row) == width else None), 1
    counts = accumulate(line.count('"') for line in waiting)
    used = next((place for place, count in enumerate(counts, 1) if count % 2 == 0), None)
    if used is None:
        return (None, 1) if is_last or len(waiting) >= LONGEST_CSV_RECORD else None
    try:
        rows = list(csv.reader(["\n".join(waiting[:used])], delimiter=delimiter, strict=True))
    except csv.Error:
        return None, 1
    return (rows[0], used) if len(rows) == 1 and len(rows[0]) == width else (None, 1)


def _repaired_text(path: Path) -> Iterator[str]:
    with open_raw(path) as file:
        for number, raw in enumerate(file):
            text = (
                raw.removesuffix(b"\n")
                .removesuffix(b"\r")
                .decode("utf-8", "replace")
                .replace("\0", "\ufffd")
            )
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
