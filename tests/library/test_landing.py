"""Files as bytes: what is counted, what is repaired, what is new."""

import gzip
import json
import os
from pathlib import Path

import pytest

from jollyboat.landing import records
from jollyboat.landing.landing import land
from jollyboat.landing.records import LONGEST_LINE
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

    (file,) = landed(store)
    read = [json.loads(text) for text in (store.root / file.read_from).read_text().splitlines()]
    assert [{"a": 1}, {"a": 2}, reason, {"a": 1}, {"a": 2}] == [
        each[0] if isinstance(each, list) else each for each in read
    ]


def test_a_bom_and_windows_line_ends_cost_nothing(store):
    put(store, "e.jsonl", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"))

    (file,) = landed(store)
    assert GOOD.decode() == (store.root / file.read_from).read_text()


@pytest.mark.parametrize(
    ("name", "content", "damage"),
    [("e.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:-20], "damaged_gzip"), ("e.jsonl.gz", GOOD, "damaged_gzip"),
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

    (file,) = landed(store)
    read = [json.loads(text) for text in (store.root / file.read_from).read_text().splitlines()]
    assert ["line_too_long", {"id": "2"}] == [
        each[0] if isinstance(each, list) else each for each in read
    ]


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


def test_without_raw_files_the_sentence_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="make simulate"):
        land(Store(tmp_path), ["web"])
