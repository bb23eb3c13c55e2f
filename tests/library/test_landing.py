"""Files as bytes: what is counted, what is repaired, what is new."""

import bz2
import gzip
import json
import lzma
import os
import time
import tracemalloc
from datetime import date
from pathlib import Path

import pytest

from jollyboat.landing import landing, records
from jollyboat.landing.landing import land
from jollyboat.landing.records import LONGEST_LINE
from jollyboat.landing.remedies import describe
from jollyboat.store import Store, UserError

GOOD = b'{"a": 1}\n{"a": 2}\n'
ZIPPED = gzip.compress(GOOD)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with an empty folder of raw files of one day."""
    (tmp_path / "raw" / "web" / "dt=2026-01-01").mkdir(parents=True)
    return Store(tmp_path)


def put(store: Store, name: str | bytes, content: bytes) -> None:
    (store.raw / "web" / "dt=2026-01-01" / os.fsdecode(name)).write_bytes(content)


def landed(store: Store):
    return land(store, ["web"]).files


def read(store: Store) -> list:
    """The lines that SQL reads of the only file: an object, or for a bad line its reason."""
    (file,) = landed(store)
    lines = [json.loads(text) for text in (store.root / file.read_from).read_text().splitlines()]
    assert len(lines) == file.line_count
    return [each[0] if isinstance(each, list) else each for each in lines]


@pytest.mark.parametrize(
    ("content", "lines", "blank"),
    [(b"", 0, 0), (GOOD, 2, 0), (GOOD[:-1], 2, 0), (b"\n\n" + GOOD + b"\n", 5, 3), (b"\n", 1, 1)],
)
def test_lines_are_counted_over_the_bytes(store, content, lines, blank):
    put(store, "e.jsonl", content)

    (file,) = landed(store)
    assert (lines, blank) == (file.line_count, file.blank_count)


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"\xff\xfe", "invalid_utf8"), (b'{"a":\x001}', "control_character"), (b'{"a"\r:1}', "control_character"),
     (b'{"a":\x1f1}', "control_character"), (b"x" * (LONGEST_LINE + 1), "line_too_long")],
)  # fmt: skip
def test_a_line_that_the_reader_would_misread_costs_only_itself(store, line, reason):
    put(store, "e.jsonl", GOOD + line + b"\n" + GOOD)

    assert [{"a": 1}, {"a": 2}, reason, {"a": 1}, {"a": 2}] == read(store)


def test_a_bom_and_windows_line_ends_cost_nothing(store):
    put(store, "e.jsonl", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"))

    (file,) = landed(store)
    assert GOOD.decode() == (store.root / file.read_from).read_text()


@pytest.mark.parametrize(
    ("name", "content", "damage"),
    [("e.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:-20], "damaged_gzip"), ("e.jsonl.gz", GOOD, "damaged_gzip"),
     ("e.jsonl.bz2", bz2.compress(GOOD * 1000)[:-9], "damaged_bz2"), ("e.jsonl.xz", GOOD, "damaged_lzma"),
     ("e.csv", "id\n1\n".encode("utf-16"), "utf_16"), ("e.jsonl.zst", GOOD, "unknown_format"),
     ("e.parquet", b"PAR1" + GOOD, "damaged_parquet"), ("e.csv", b"a,b\r1,2\r", "unparsable"),
     (b"\xff.jsonl", GOOD, "unreadable_file")],
)  # fmt: skip
def test_a_damaged_file_costs_only_itself(store, name, content, damage):
    put(store, name, content)
    put(store, "good.jsonl", GOOD)

    assert [damage, None] == [
        file.damage for file in sorted(landed(store), key=lambda file: file.damage is None)
    ]


@pytest.mark.parametrize(
    ("zipped", "is_read_in_place"),
    [
        (ZIPPED, True),
        (ZIPPED[:3] + b"\4" + ZIPPED[4:10] + b"\3\0\x1f\x8b\x08" + ZIPPED[10:], True),
        (gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:]), False),
        (ZIPPED + bytes(8), False),
    ],
    ids=["one", "one that holds the bytes of a header", "two", "one and zeros"],
)
def test_a_gzip_of_one_member_alone_is_read_where_it_is(store, zipped, is_read_in_place):
    put(store, "e.jsonl.gz", zipped)
    (file,) = landed(store)
    assert (file.line_count, file.damage) == (2, None)
    assert file.read_from.endswith("e.jsonl.gz") == is_read_in_place


def test_a_line_is_too_long_whatever_the_parts_it_is_read_in(store):
    put(store, "e.jsonl.gz", gzip.compress(b'{"a": "' + b"x" * (LONGEST_LINE - 8) + b'"}\n' + GOOD))
    (file,) = landed(store)
    assert file.line_count == 3
    assert '["line_too_long"' in (store.root / file.read_from).read_text()[:20]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read_under_its_own_header_whatever_its_delimiter(store, delimiter):
    rows = [
        ["id", "note"],
        ["1", "plain"],
        ["2", f'"two\nlines{delimiter} one field"'],
        ["3"],
        ["4", "after"],
    ]
    put(store, "e.csv", "\n".join(delimiter.join(row) for row in rows).encode())

    (file,) = landed(store)
    read = [json.loads(text) for text in (store.root / file.read_from).read_text().splitlines()]
    assert [
        {"id": "1", "note": "plain"},
        {"id": "2", "note": f"two\nlines{delimiter} one field"},
        ["csv_width", "3"],
        {"id": "4", "note": "after"},
    ] == read


def test_an_open_quote_costs_only_its_own_row(store):
    rows = ["id,note", *(f'"{number}","x"' for number in range(60))]
    rows[5] = '"4","x'
    put(store, "e.csv", "\n".join(rows).encode())

    (file,) = landed(store)
    read = [json.loads(text) for text in (store.root / file.read_from).read_text().splitlines()]
    assert [["csv_width", '"4","x']] == [each for each in read if isinstance(each, list)]
    assert 60 == len(read)


def test_a_csv_row_that_would_be_too_long_a_line_costs_only_itself(store):
    put(store, "e.csv", b"id\n" + b"x" * (LONGEST_LINE + 1) + b"\n2\n")

    assert ["line_too_long", {"id": "2"}] == read(store)


@pytest.mark.parametrize(
    "name",
    ["E.JSONL", "E.Json", "E.JSONL.GZ", "e.Ndjson.gz", "e.jsonl.bz2", "E.JSON.XZ"],
)
def test_a_name_matches_without_regard_to_case_and_whatever_its_compression(store, name):
    zip_ = {"gz": gzip, "bz2": bz2, "xz": lzma}.get(name.lower().rpartition(".")[2])
    put(store, name, zip_.compress(GOOD) if zip_ else GOOD)

    (file,) = landed(store)
    assert (file.line_count, file.damage) == (2, None)
    is_copy = (name.lower() != name and name.endswith("Z")) or name.endswith("bz2")
    assert file.read_from.startswith("landed/") == is_copy


def test_a_csv_a_parquet_and_a_day_in_upper_case_are_read(store):
    (store.raw / "web" / "dt=2026-01-01").rename(store.raw / "web" / "DT=2026-01-01")
    path = store.raw / "web" / "DT=2026-01-01" / "E.CSV"
    path.write_bytes(b"id\n1\n")

    assert [{"id": "1"}] == read(store)


@pytest.mark.parametrize(
    "content",
    [b'[{"a": 1}, {"a": 2}]', b'[\n  {"a": 1},\n  {"a":\n 2}\n]\n', b'{"a": 1}{"a": 2}', b'{"a": 1} {"a": 2}\n',
     b'{"a": 1},\n{"a": 2}', b'{\r\n "a": 1\r\n}\r\n{\r\n "a": 2\r\n}\r\n', b'\xef\xbb\xbf[{"a": 1}]\n[{"a": 2}]'],
    ids=["array", "array over lines", "back to back", "spaces between", "commas", "over lines", "an array a line"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["e.json", "e.jsonl.gz"])
def test_objects_are_read_however_a_json_file_strings_them_together(store, name, content):
    put(store, name, gzip.compress(content) if name.endswith("gz") else content)

    assert [{"a": 1}, {"a": 2}] == read(store)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'[{"a": 1},\n{"a": oops},\n{"a": 2}]', [{"a": 1}, "unparsable", {"a": 2}]),
     (b'{"a": 1}{"a": oops}{"a": 2}', [{"a": 1}, "unparsable", {"a": 2}]),
     (b'{"a": 1}{"a": \xff}{"a": 2}', [{"a": 1}, "unparsable", {"a": 2}]),
     (b'{"a": 1}{"a": oops}' + b'{"a": "%s"}' % (b"x" * 99_000) * 30,
      [{"a": 1}, "unparsable", *[{"a": "x" * 99_000}] * 30]),
     (b'[{"a": 1}, {"a": ', [{"a": 1}, "unparsable"]),
     (b'{"a": 1}{"a": "\xff"}{"a": 2}', [{"a": 1}, "invalid_utf8", {"a": 2}]),
     (b'{"a": 1}{"a": "' + b"x" * 3 * LONGEST_LINE + b'"}{"a": 2}', [{"a": 1}, "line_too_long", {"a": 2}]),
     (b'{"a": 1}{"b": ' + b"[" * 5_000 + b"]" * 5_000 + b'}{"a": 2}', [{"a": 1}, "unparsable", {"a": 2}]),
     (b"[]", [])],
    ids=["broken line", "broken", "broken and not UTF-8", "broken among many", "cut off", "not UTF-8", "too long", "too deep", "no object"],
)  # fmt: skip
def test_a_broken_object_among_others_costs_only_itself(store, content, expected):
    put(store, "e.json", content)

    assert expected == read(store)


def test_a_line_of_a_log_is_a_record_of_one_field_unless_it_is_json(store):
    line = '[01/Jan/2026:10:00:00 +0000] 127.0.0.1 "GET / HTTP/1.1" 200 5'
    put(store, "access.log", f'{line}\n\n{{"a": 1}}\n'.encode())

    (file,) = landed(store)
    copied = (store.root / file.read_from).read_text().splitlines()
    assert [{"line": line}, {"a": 1}] == [json.loads(text) for text in copied if text]
    assert (3, 1) == (file.line_count, file.blank_count)


@pytest.mark.parametrize(
    ("name", "content", "fields"),
    [("e.csv", b"2026-03-01 10:00:00,v17,open\n2026-03-01 10:00:20,v17,home\n", ["2026-03-01 10:00:00", "v17", "open"]),
     ("e.tsv", b'2026-03-01T10:00:00.5Z\tv17\t{"a": "b, c"}\n1,5\tv18\topen\n',
      ["2026-03-01T10:00:00.5Z", "v17", '{"a": "b, c"}']),
     ("e.csv", b"v17;0.5;open\nv18;;home\n", ["v17", "0.5", "open"])],
)  # fmt: skip
def test_a_first_row_with_a_number_or_a_time_is_a_record_and_no_header(
    store, name, content, fields
):
    put(store, name, content)

    first, second = read(store)
    assert {f"column_{place}": field for place, field in enumerate(fields, 1)} == first
    assert first.keys() == second.keys()
    assert not landed(store)[0].has_header


def test_a_header_of_names_is_one_even_where_a_name_is_empty_or_has_digits(store):
    put(store, "e.csv", b",utm_1,2nd,p-3\n0,a,b,c\n")

    assert [{"": "0", "utm_1": "a", "2nd": "b", "p-3": "c"}] == read(store)


def test_a_second_look_finds_nothing_new_and_a_third_one_the_file_that_changed(store):
    put(store, "e.jsonl", GOOD)
    first, second = land(store, ["web"]), land(store, ["web"])
    put(store, "e.jsonl", GOOD * 2)
    third = land(store, ["web"])

    assert (["raw/web/dt=2026-01-01/e.jsonl"], []) == (first.new, second.new)
    assert first.fingerprint == second.fingerprint != third.fingerprint
    assert ["raw/web/dt=2026-01-01/e.jsonl"] == third.changed


def test_files_stay_in_the_portion_in_which_they_landed_and_new_ones_begin_another(store):
    def portions() -> dict[str, int]:
        return {
            Path(file.file).stem: file.portion
            for file in land(store, ["web"], lines_at_once=3).files
        }

    for name in "abcd":
        put(store, f"{name}.jsonl", GOOD)
    assert portions() == {"a": 1, "b": 1, "c": 2, "d": 3}

    (store.raw / "web/dt=2026-01-01/a.jsonl").unlink()
    put(store, "c.jsonl", GOOD * 2)
    put(store, "e.jsonl", GOOD)
    assert portions() == {"b": 1, "d": 3, "c": 4, "e": 5}


def test_files_are_read_again_once_they_are_read_in_another_way(store, tmp_path, monkeypatch):
    put(store, "e.jsonl", b"\r" + GOOD)
    first = land(store, ["web"])
    (tmp_path / "records.py").write_text("changed")
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    monkeypatch.setattr(records, "UNSAFE", (b"\0",))

    second, third = land(store, ["web"]), land(store, ["web"])
    assert first.files[0].read_from != second.files[0].read_from == second.files[0].file
    assert first.fingerprint != second.fingerprint == third.fingerprint


def test_a_folder_without_a_day_is_damage_and_a_source_without_files_is_none(store):
    (store.raw / "web" / "dt=nonsense").mkdir()
    (store.raw / "web" / "dt=nonsense" / "e.jsonl").write_bytes(GOOD)

    assert ["no_arrival_day"] == [file.damage for file in land(store, ["web", "orders"]).files]


def test_a_day_too_far_ahead_for_a_wrong_clock_is_read_once_the_clock_is_right(store, monkeypatch):
    class Early(date):
        @classmethod
        def today(cls):
            return cls(1970, 1, 1)

    put(store, "e.jsonl", GOOD)
    with monkeypatch.context() as wrong_clock:
        wrong_clock.setattr(landing, "date", Early)
        assert ["no_arrival_day"] == [file.damage for file in landed(store)]

    assert [(None, "2026-01-01", 2)] == [
        (file.damage, file.arrived_on, file.line_count) for file in landed(store)
    ]


def test_an_unreadable_file_is_accepted_until_it_changes(store):
    put(store, "good.jsonl", GOOD)
    put(store, "e.xlsx", b"PK")
    first = land(store, ["web"])
    accepted, later = land(store, ["web"], accepts=True), land(store, ["web"])
    put(store, "e.xlsx", b"PK2")
    put(store, "f.zip", b"PK")
    changed = land(store, ["web"])

    assert [[False], [True], [True], [False, False]] == [
        [file.is_accepted for file in each.unreadable] for each in (first, accepted, later, changed)
    ]
    assert first.fingerprint != accepted.fingerprint == later.fingerprint
    assert [
        "raw/web/dt=2026-01-01/e.xlsx: unknown_format; save it as CSV in UTF-8",
        "raw/web/dt=2026-01-01/f.zip: unknown_format; unpack it; each file in it may be a .gz",
    ] == [describe(file) for file in changed.unreadable]


def test_the_unreadable_files_of_one_tenant_are_accepted_alone(store):
    put(store, "good.jsonl", GOOD)
    for name in ("acme.xlsx", "tenant=acme/e.xlsx", "globex.xlsx", "tenant=acme2/e.xlsx"):
        (store.raw / "web/dt=2026-01-01" / name).parent.mkdir(exist_ok=True)
        put(store, name, b"PK")

    accepted = land(store, ["web"], accepts=True, tenant="acme")

    assert {"acme.xlsx": True, "tenant=acme/e.xlsx": True} == {
        file.file.partition("dt=2026-01-01/")[2]: file.is_accepted
        for file in accepted.unreadable
        if file.is_accepted
    }


def test_a_file_of_one_line_that_is_too_long_cannot_be_read(store):
    put(store, "e.json", b'{"events": [' + b'{"a": 1},' * (LONGEST_LINE // 8) + b"{}]}")

    assert ["line_too_long"] == [file.damage for file in landed(store)]


def test_a_marker_of_another_tool_is_no_file_of_logs(store):
    for name in ["_SUCCESS", "_committed_1", ".e.jsonl.crc"]:
        put(store, name, b"x")
    put(store, "_e.jsonl", GOOD)

    assert [2] == [file.line_count for file in landed(store)]


@pytest.mark.parametrize("name", ["e.jsonl.gz", "e.csv.gz", "e.log.gz"])
def test_a_huge_line_takes_bounded_memory_and_linear_time(store, name):
    with gzip.open(store.raw / "web" / "dt=2026-01-01" / name, "wb", 1) as file:
        file.write(b'{"a": 1}\n' * 2 + b'{"a": "')
        for _ in range(40):
            file.write(b"x" * 1_000_000)
    began = time.monotonic()
    tracemalloc.start()
    try:
        assert "line_too_long" == read(store)[-1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000
    assert time.monotonic() - began < 10


def test_without_raw_files_the_sentence_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="make simulate"):
        land(Store(tmp_path), ["web"])
