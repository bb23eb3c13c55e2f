"""One raw file as bytes: is it whole, how many lines has it, and can SQL read it as it is?

SQL's line reader would misread some files: invalid UTF-8, control characters, CRLF, very long
lines, CSV, Parquet. It reads a copy of them as JSON lines. In the copy a line that the reader would
misread is `["<reason>", "<the line>"]`, so each line keeps its number.
"""

import bz2
import codecs
import csv
import glob
import gzip
import hashlib
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import IO

import numpy as np

from jollyboat.store import hash_addresses, hash_file, quoted, replacing

JSON_SUFFIXES, CSV_SUFFIXES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
TEXT_SUFFIXES = (*JSON_SUFFIXES, *CSV_SUFFIXES, ".log")
UNZIP = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
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
# A number, a date or a time: where the first row of a CSV has one, that row is no header.
NO_NAME = re.compile(r"[-+]?[0-9][-+0-9.,:/TZ ]*(UTC|GMT)?")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
HEAD = CHUNK // 4  # bytes in which the first record shows how a JSON file is written
ARRAY = re.compile(r"\[\s*[{\]]")
BETWEEN_OBJECTS = re.compile(r"[\s,\[\]]*")
NEXT_OBJECT = re.compile(r"[\n}][\s,\[\]]{0,99}(?=\{)")
SPACES = {ord("\n"): " ", ord("\r"): " "}
JSON = json.JSONDecoder(parse_int=str, parse_float=str)
DEEPEST = 1_000  # levels of nesting; DuckDB crashes at some tens of thousands
DEPTH = [{ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}.get(byte, 0) for byte in range(256)]

csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True)
class Inspection:
    """The counts and hash of a file's bytes.

    `damage`: why the whole file cannot be read. `copy`: the file to read in its place.
    `has_header`: False for a CSV whose first row is a record.
    """

    bytes: int
    modified_ns: int
    sha256: str
    line_count: int = 0
    blank_count: int = 0
    copy: Path | None = None
    damage: str | None = None
    has_header: bool = True


class _NotParquet(Exception):
    pass


class _TooLong(Exception):
    """No line of the file is short enough to be read."""


class _OddGzip(Exception):
    """A zipped file that DuckDB may not unzip as Python does."""


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
    suffix, zipped = format_of(path)
    if suffix not in TEXT_SUFFIXES and (suffix, zipped) != (".parquet", ""):
        return Inspection(*figures, damage="unknown_format")
    copy = copies / f"{hashlib.sha256(f'{path}|{sha256}'.encode()).hexdigest()}.jsonl"
    try:
        if suffix != ".parquet" and _starts_with(path, UTF_16):
            return Inspection(*figures, damage="utf_16")
        counts = _count_or_copy(path, copy)
        return Inspection(*figures, *counts, has_header=not is_csv(path) or has_header(path))
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if not zipped or getattr(error, "errno", None):  # a fault of the disk, not of the file
            raise
        return Inspection(*figures, damage=f"damaged_{UNZIP[zipped].__name__}")
    except _TooLong:
        return Inspection(*figures, damage="line_too_long")
    except _NotParquet:
        return Inspection(*figures, damage="damaged_parquet")
    except csv.Error:  # in the header, without which no row can be read
        return Inspection(*figures, damage="unparsable")


def _count_or_copy(path: Path, copy: Path) -> tuple[int, int, Path | None]:
    """Lines, empty lines, and the copy if there is one."""
    suffix, _ = format_of(path)
    if suffix == ".parquet":
        return _copy_parquet(path, copy), 0, copy
    if is_csv(path):
        return *_write_copy(copy, csv_records(path)), copy
    if is_json_values(path):
        return *_write_copy(copy, json_records(path)), copy
    # The tables have the name of what is read, so a name with an address needs a copy.
    name = str(path).removeprefix(str(copy.parent.parent))
    if suffix != ".log" and name == hash_addresses(name, ""):
        with suppress(_OddGzip):
            line_count, blank_count, is_clean = _count_lines(path)
            if is_clean:
                return line_count, blank_count, None
    return *_write_copy(copy, _repaired_lines(path)), copy


def format_of(path: Path) -> tuple[str, str]:
    """The format and the compression in a file's name, in lower case, such as ".csv", ".gz"."""
    name = Path(path.name.lower())
    return (Path(name.stem).suffix, name.suffix) if name.suffix in UNZIP else (name.suffix, "")


def is_csv(path: Path) -> bool:
    """Whether a raw file is a CSV or TSV by its name."""
    return format_of(path)[0] in CSV_SUFFIXES


def open_raw(path: Path, mode: str = "rb", beside: Path | None = None) -> IO[bytes]:
    """The bytes of a raw file, unzipped; `beside` is a file to open in its place, zipped alike."""
    zipped = format_of(path)[1]
    return (UNZIP[zipped].open if zipped else open)(beside or path, mode)


def _starts_with(path: Path, signs: tuple[bytes, ...]) -> bool:
    with open_raw(path) as file:
        return file.read(2) in signs


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
    zipped = format_of(path)[1]
    if zipped and not path.name.endswith(".gz"):  # DuckDB unzips by the name, in lower case
        raise _OddGzip
    with path.open("rb") as file:
        if not zipped:
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


def _lines(path: Path) -> Iterator[bytes]:
    """The lines without their ends and the BOM; of a line that is too long, its beginning."""
    with open_raw(path) as file:
        bom = codecs.BOM_UTF8
        while line := file.readline(LONGEST_LINE + 2):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(CHUNK)
            yield line.removesuffix(b"\n").removesuffix(b"\r").removeprefix(bom)
            bom = b""


def _repaired_lines(path: Path) -> Iterator[str]:
    is_log = format_of(path)[0] == ".log"
    return (_repaired(line, is_log) for line in _lines(path))


def _repaired(line: bytes, is_log: bool = False) -> str:
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
    if is_log and text.strip() and not text.lstrip().startswith("{"):
        return json.dumps({"line": text}, ensure_ascii=False)
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
    first_line = next(lines, "")
    delimiter, header = _header(path, first_line)
    waiting: list[str] = []
    if not _are_names(header):
        header = [f"column_{place}" for place in range(1, len(header) + 1)]
        lines = chain([first_line], lines)
    for line in lines:
        waiting.append(line)
        yield from _take_records(waiting, delimiter, header)
    yield from _take_records(waiting, delimiter, header, is_last=True)


def has_header(path: Path) -> bool:
    """Whether the first row of a CSV has the names of its columns."""
    return _are_names(_header(path, next(_repaired_text(path), ""))[1])


def _header(path: Path, line: str) -> tuple[str, list[str]]:
    """The delimiter of a CSV and the fields of its first row."""
    is_tsv = format_of(path)[0] == ".tsv"
    delimiter = "\t" if is_tsv else max(",;\t|", key=QUOTED.sub("", line).count)
    return delimiter, _unique(next(csv.reader([line], delimiter=delimiter), []))


def _are_names(fields: list[str]) -> bool:
    return not any(NO_NAME.fullmatch(field.strip()) for field in fields)


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
            reason = "line_too_long" if len(record) > LONGEST_LINE else "csv_width"
            yield _bad(reason, record) if record.strip() else "", line_count
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
    for line in _lines(path):
        yield line.decode("utf-8", "replace").replace("\0", "\ufffd")


def is_json_values(path: Path) -> bool:
    """Whether a JSON file has its objects in an array, back to back, or over several lines."""
    if format_of(path)[0] not in JSON_SUFFIXES:
        return False
    with open_raw(path) as file:
        head = file.read(HEAD).decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    if ARRAY.match(head):
        return True
    try:
        _, end = JSON.raw_decode(head)
    except (ValueError, RecursionError):
        return False
    return "\n" in head[:end] or head[end:].lstrip(" \t\r")[:1] in ("{", ",")


def json_records(path: Path) -> Iterator[str]:
    """Each object of a JSON file as one line; what is no object between two is one bad line."""
    text, start = "", 0
    with open_raw(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", "surrogateescape") as file:
        while True:
            start = BETWEEN_OBJECTS.match(text, start).end()
            end = _end_of_object(text, start)
            is_long = len(text) - start > LONGEST_LINE
            if not end and not is_long and (more := file.read(CHUNK)):
                text, start = text[start:] + more, 0  # the object may go on
                continue
            if start == len(text):
                return
            if end:
                line = text[start:end].translate(SPACES).encode("utf-8", "surrogateescape")
                yield _repaired(line)
                start = end
                continue
            following = NEXT_OBJECT.search(text, start + 1)
            bad = text[start : following.start() + 1 if following else None]
            reason = "line_too_long" if len(bad) > LONGEST_LINE else "unparsable"
            yield _bad(reason, bad.encode("utf-8", "surrogateescape"))
            while not following:
                text = text[-1:] + file.read(CHUNK)
                if len(text) < 2:
                    return
                following = NEXT_OBJECT.search(text)
            start = following.end()


def _end_of_object(text: str, start: int) -> int:
    """Where the JSON object that starts here ends; 0 where there is no whole object."""
    try:
        return JSON.raw_decode(text, start)[1] if text[start : start + 1] == "{" else 0
    except (ValueError, RecursionError):
        return 0


def _write_copy(copy: Path, lines: Iterator[str]) -> tuple[int, int]:
    count = blank = long = 0
    with replacing(copy) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count, blank = count + 1, blank + (not line)
            long += line.startswith('["line_too_long"')
        if 0 < long == count - blank:
            raise _TooLong
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
