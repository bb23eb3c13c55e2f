"""Every input that a raw folder has been seen to hold, as a file beside good ones: each costs only itself."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import zlib
from pathlib import Path

import duckdb
import pytest
from runs import JOLLYBOAT, copy_project, run

from jollyboat.store import LIBRARY

DAY = "dt=2026-01-01"
TEXTS = [
    "\U0001f600 \u0639\u0631\u0628\u064a \u202e",
    "'; drop table events; --",
    "{{ 1/0 }} {% raw %}",
    "C:\\temp\\\\",
    "\u0000x",
]


def event(**changes: object) -> dict:
    """A good event of a browser; `changes` are of its parts, `more` of the whole."""
    event.number += 1
    inner = {
        "id": f"e{event.number}",
        "type": "page_view",
        "ts": "2026-01-01T10:00:00Z",
    } | changes.pop("event", {})
    return {
        "event": inner,
        "shop": "acme",
        "visitor": {"anonymous_id": f"a{event.number}"},
    } | changes


event.number = 0


def line(**changes: object) -> bytes:
    return json.dumps(event(**changes), ensure_ascii=False).encode("utf-8", "surrogatepass")


def jsonl(*lines: bytes) -> bytes:
    """The lines with a good one before and after."""
    return b"\n".join([line(), *lines, line()]) + b"\n"


def product(price: object) -> bytes:
    return line(product={"id": "p", "price": price})


def timed(text: object) -> bytes:
    return line(event={"ts": text})


def parquet(odd: str = "'nan'::double") -> bytes:
    path = f"/tmp/hostile-{os.getpid()}.parquet"
    number = event()["event"]["id"]
    one = f"{{'id': '{number}' || i, 'type': 'page_view', 'ts': timestamp '2026-01-01'}}"
    duckdb.sql(
        f"select {one} as event, 'acme' as shop, {odd} as odd from range(2) as t(i)"
    ).to_parquet(path)
    content = Path(path).read_bytes()
    os.unlink(path)
    return content


def with_flag(flag: int) -> bytes:
    """A gzip with a flag in its header that is rarely seen, and the field that it stands for."""
    content = gzip.compress(jsonl(), mtime=0)
    header = content[:3] + bytes([flag]) + content[4:10]
    field = {FHCRC: (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little"), FCOMMENT: b"note\0"}
    return header + field.get(flag, b"") + content[10:]


def same_key_twice() -> bytes:
    return line()[:-1] + b', "shop": "other"}'


FTEXT, FHCRC, FCOMMENT = 1, 2, 16
HEADER = "order_no,shop_code,customer_no,visitor_cookie,placed_at,total,currency,items"


def order(number: str, total: str = "9.90", items: str = "[]") -> str:
    return f"{number},acme,u1,c1,2026-01-01 11:00:00+01:00,{total},EUR,{items}"


def orders(*rows: str, header: str = HEADER) -> bytes:
    return "\n".join([header, *rows]).encode() + b"\n"


# Per file: its name, its bytes, how many records it holds, how many are events or repeat one, and the reasons of the
# others. A number of records of None is the number of newlines in the bytes.
WEB = {
    "empty.jsonl": (b"", 0, 0, {}),
    "blank_lines.jsonl": (b"\n\n" + jsonl() + b"\n   \n", 3, 2, {"unparsable": 1}),
    "no_last_newline.jsonl": (jsonl()[:-1], 2, 2, {}),
    "truncated.jsonl.gz": (gzip.compress(os.urandom(9_000).hex().encode() + jsonl())[:-40], 1, 0, {"damaged_gzip": 1}),
    "no_gzip.jsonl.gz": (jsonl(), 1, 0, {"damaged_gzip": 1}),
    "of_no_byte.jsonl.gz": (b"", 0, 0, {}),
    "of_no_line.jsonl.gz": (gzip.compress(b""), 0, 0, {}),
    "padded.jsonl.gz": (gzip.compress(jsonl()) + bytes(100), 2, 2, {}),
    "flag_text.jsonl.gz": (with_flag(FTEXT), 2, 2, {}),
    "flag_checksum.jsonl.gz": (with_flag(FHCRC), 2, 2, {}),
    "flag_comment.jsonl.gz": (with_flag(FCOMMENT), 2, 2, {}),
    "members.jsonl.gz": (gzip.compress(jsonl()) + with_flag(FCOMMENT), 4, 4, {}),
    "zeros_between.jsonl.gz": (gzip.compress(jsonl()) + bytes(8) + gzip.compress(jsonl()), 4, 4, {}),
    "half.parquet": (parquet()[:-100], 1, 0, {"damaged_parquet": 1}),
    "whole.parquet": (parquet(), 2, 2, {}),
    "part[1]*.parquet": (parquet(), 2, 2, {}),
    "long_row.parquet": (parquet("repeat('x', i * 9000000)"), 2, 1, {"line_too_long": 1}),
    "no.csv.jsonl": (jsonl(), 2, 2, {}),
    "notes.docx": (b"PK", 1, 0, {"unknown_format": 1}),
    "EXPORT.JSONL.GZ": (gzip.compress(jsonl()), 2, 2, {}),
    "Upper.Parquet": (parquet(), 2, 2, {}),
    "lines.ndjson.bz2": (bz2.compress(jsonl(b"{")), 3, 2, {"unparsable": 1}),
    "array.json": (b"[" + line() + b",\n" + line() + b"]", 2, 2, {}),
    "over_lines.json.xz": (lzma.compress(json.dumps([event(), event()], indent=2).encode()), 2, 2, {}),
    "back_to_back.json": (line() + b"{oops}" + line(), 3, 2, {"unparsable": 1}),
    "server.log": (jsonl(b"GET /"), 3, 2, {"no_tenant": 1}),
    "_SUCCESS.json": (b"", 0, 0, {}),
    "nul.jsonl": (jsonl(b'{"a":\0 1}'), None, 2, {"control_character": 1}),
    "invalid_utf8.jsonl": (jsonl(b'{"a": "\xff\xfe"}'), None, 2, {"invalid_utf8": 1}),
    "surrogate.jsonl": (jsonl(line(search={"query": "\ud83d"})), None, 2, {"invalid_utf8": 1}),
    "bom.jsonl": (b"\xef\xbb\xbf" + jsonl(), None, 2, {}),
    "crlf.jsonl": (jsonl(line()).replace(b"\n", b"\r\n"), None, 3, {}),
    "lone_cr.jsonl": (jsonl(line() + b"\r" + line()), None, 2, {"control_character": 1}),
    "delimiter.jsonl": (jsonl(b'{"a": "\x1f"}'), None, 2, {"control_character": 1}),
    "long_line.jsonl": (jsonl(b'{"a": "' + b"x" * 100_000_000 + b'"}'), None, 2, {"line_too_long": 1}),
    "nested.jsonl": (jsonl(line(deep=json.loads("[" * 300 + "]" * 300)), b'{"a":' * 300), None, 3, {"unparsable": 1}),
    "deep.jsonl": (jsonl(b'{"a":' * 20_000 + b"1" + b"}" * 20_000), None, 2, {"unparsable": 1}),
    "tab_first.jsonl": (jsonl(b"\t" + line(), b"\t" + b"{"), None, 3, {"unparsable": 1}),
    "no_objects.jsonl": (jsonl(b"[]", b"3", b"null", b'"x"', b'[{"event": {}}]'), None, 2, {"not_an_object": 5}),
    "numbers.jsonl": (jsonl(line(extra=0).replace(b'"extra": 0', b'"extra": NaN'),
                            line(extra=0).replace(b'"extra": 0', b'"extra": 1e400'),
                            line()[:-1] + b", }", same_key_twice()), None, 6, {}),
    "event_ids.jsonl": (jsonl(line(event={"id": None}), line(event={"id": ""}), line(event={"id": 17}),
                              line(event={"id": "x" * 10_000}), line(event={"id": ["a"]})), None, 7, {}),
    "same_id.jsonl": (jsonl(line(event={"id": "twice"}), line(event={"id": "twice", "type": "search"})), None, 4, {}),
    "times.jsonl": (jsonl(*map(timed, ["2026-01-01T10:00:00", "2026-01-01T12:00:00+02:00", "2026-01-01 10:00:00,25",
                                       1767261600, 1767261600000, "1767261600000000"])), None, 8, {}),
    "no_times.jsonl": (jsonl(*map(timed, ["infinity", "-infinity", "nan", "soon", {}, True, 1e300, None, ""])), None, 2,
                       {"malformed_time": 7, "no_time": 2}),
    "zones.jsonl": (jsonl(*map(timed, ["2026-01-01 12:00:00 NZ", "2026-01-01 12:00:00 Etc/GMT+5",
                                       "2026-01-01 07:00:00", "2026-01-01 12:00:00 UTC+05:00",
                                       "2026-01-01T07:00:00"])), None, 5, {"malformed_time": 2}),
    "far_times.jsonl": (jsonl(timed("1970-01-01T00:00:00Z"), timed("2099-01-01T00:00:00Z"), timed("0001-01-01"),
                              timed("2026-01-01T10:00:00Z BC")), None, 2,
                        {"too_long_ago": 2, "in_the_future": 1, "malformed_time": 1}),
    "arrival_first.jsonl": (
        jsonl(*(line(received=at) for at in ["2025-12-31T00:00:00Z", "2099-01-01", []])), None, 5, {}),
    "prices.jsonl": (jsonl(*map(product, ["free", -1, "19,90", 1e300, "1.000,00", {}, True, None,
                                          1_290_000, 9e12])), None, 12, {}),
    "unseen_type.jsonl": (jsonl(line(event={"type": "hologram"})), None, 3, {}),
    "tenants.jsonl": (jsonl(*(line(shop=shop) for shop in [None, "", "../x", "a b", "x" * 65, {"a": 1}, 7])), None, 3,
                      {"no_tenant": 2, "malformed_tenant": 4}),
    "texts.jsonl": (jsonl(*(line(event={"id": text, "type": text, "ts": "2026-01-01"}, search={"query": text},
                                 session={"id": text}, context={"page": {"name": text, "url": text}})
                            for text in TEXTS)), None, 2 + len(TEXTS), {}),
    "groups.jsonl": (jsonl(line(visitor="ann"), line(context=[1]), line(product=3), b'{"event": "x"}'), None, 5,
                     {"no_tenant": 1}),
    "with space & {{ braces }} [1] 'quote'; --.jsonl": (jsonl(), None, 2, {}),
    "%41 ünï.jsonl.gz": (gzip.compress(jsonl()), 2, 2, {}),
}  # fmt: skip
ORDERS = {
    "empty.csv": (b"", 0, 0, {}),
    "header_only.csv": (orders(), 0, 0, {}),
    "semicolons.csv": (orders(order("1"), order("2")).replace(b",", b";"), 2, 2, {}),
    "quotes.csv": (orders(order("3", items='"a, ""b""\n\nc"'), order("4")), 2, 2, {}),
    "open_quote.csv": (orders(order("5", items='"open'), order("6")), 2, 1, {"csv_width": 1}),
    "open_quote_before_quoted_rows.csv": (
        orders(order("20", items='"open'), *(order(f"quoted{n}", items='"x"') for n in range(60))), 61, 60,
        {"csv_width": 1}),
    "long_row.csv": (orders(order("21", items="x" * 9_000_000), order("22")), 2, 1, {"line_too_long": 1}),
    "wide_header.csv": (orders(order("23") + ",x", header=HEADER + "," + "h" * 140_000), 1, 1, {}),
    "lone_cr.csv": (orders(order("24")).replace(b"\n", b"\r"), 1, 0, {"unparsable": 1}),
    "short_and_long.csv": (orders("7,acme", order("8") + ",more", order("9")), 3, 1, {"csv_width": 2}),
    "other_columns.csv": (orders("2026-01-01,acme,10,new", header="placed_at,shop_code,order_no,never_seen"), 1, 1, {}),
    "same_columns.csv": (orders("a,b,11,acme,2026-01-01", header="x,x,order_no,shop_code,placed_at"), 1, 1, {}),
    "quoted_header.csv": (
        orders("a;25;acme;2026-01-01", header='"a, b, c, d";order_no;shop_code;placed_at'), 1, 1, {}),
    "crlf_bom.csv": (b"\xef\xbb\xbf" + orders(order("12")).replace(b"\n", b"\r\n"), 1, 1, {}),
    "latin1.csv": (orders(order("13", items="caf\u00e9")).decode().encode("latin-1"), 1, 1, {}),
    "no_header.csv": (f"{order('26')}\n{order('27')}\n".encode(), 2, 0, {"no_tenant": 2}),
    "tabs.TSV": (orders(order("28")).replace(b",", b"\t"), 1, 1, {}),
    "price.csv": (orders(order("14", total='"9,90"'), order("15", total="-3")), 2, 2, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def store(untouched: Path, tmp_path_factory) -> Path:
    """All of it in one store, and one run."""
    store = tmp_path_factory.mktemp("hostile")
    for source, files in {"web": WEB, "orders": ORDERS}.items():
        (store / "raw" / source / DAY).mkdir(parents=True)
        for name, (content, *_) in files.items():
            (store / "raw" / source / DAY / name).write_bytes(content)
    web = store / "raw" / "web"
    (web / "dt=nonsense").mkdir()
    (web / "dt=nonsense" / "good.jsonl").write_bytes(jsonl())
    (web / "dt=2099-01-01").mkdir()
    (web / "dt=2099-01-01" / "later.jsonl").write_bytes(jsonl())
    (web / DAY / ".part").mkdir()
    (web / DAY / ".part" / "unfinished.jsonl").write_bytes(jsonl())
    (store / "raw" / os.fsdecode(b"caf\xe9")).mkdir()
    (web / DAY / "dangling.jsonl").symlink_to("nowhere")
    (web / DAY / "circle.jsonl").symlink_to("circle.jsonl")
    os.mkfifo(web / DAY / "pipe.jsonl")
    (web / DAY / os.fsdecode(b"not-utf-8-\xff.jsonl")).write_bytes(jsonl())
    (web / "dt=2026-01-03").symlink_to(web / "dt=nonsense")
    (web / "dt=2026-01-02").mkdir()
    (web / "dt=2026-01-02" / "copy.jsonl").write_bytes(WEB["unseen_type.jsonl"][0])
    # Enough good lines for the share of the quarantined to stay below what stops.
    (web / DAY / "good.jsonl").write_bytes(b"\n".join(line() for _ in range(5_000)))
    many = orders(*(order(f"good{number}") for number in range(500)))
    (store / "raw" / "orders" / DAY / "good.csv").write_bytes(many)
    accepted = run(untouched, store, *JOLLYBOAT, "land", "--accept")
    assert accepted.stdout.count("accepted: ") == 12, accepted.stdout
    result = run(untouched, store, "flows/data.py", "run")
    assert result.returncode == 0, result.stdout
    return store


def rows(store: Path, query: str) -> list[tuple]:
    with duckdb.connect(str(store / "warehouse.duckdb"), read_only=True) as connection:
        return connection.sql(query).fetchall()


@pytest.mark.parametrize(
    ("source", "name"),
    [(s, n) for s, files in {"web": WEB, "orders": ORDERS}.items() for n in files],
)
def test_a_hostile_file_costs_only_itself(store, source, name):
    content, records, events, reasons = {"web": WEB, "orders": ORDERS}[source][name]
    file = f"raw/{source}/{DAY}/{name}".replace("'", "''")
    account = rows(
        store,
        "select line_count - blank_count, event_count + duplicate_count, quarantined_count, missing_count "
        f"from record_reconciliation where file = '{file}'",
    )
    actual = rows(
        store, f"select reason, count(*) from quarantined_events where file = '{file}' group by all"
    )

    records = content.count(b"\n") if records is None else records
    quarantined = sum(reasons.values())
    assert [(records, records - quarantined, quarantined, 0)] == account
    assert reasons == dict(actual)
    assert events == records - quarantined


def test_what_is_no_readable_file_of_a_day_is_counted_as_one_record_each(store):
    actual = rows(
        store,
        "select split_part(file, '/', -1), reason from quarantined_events "
        "where reason in ('unreadable_file', 'no_arrival_day')",
    )

    assert {"dangling.jsonl": "unreadable_file", "circle.jsonl": "unreadable_file", "pipe.jsonl": "unreadable_file",
            "not-utf-8-\\udcff.jsonl": "unreadable_file", "dt=2026-01-03": "unreadable_file",
            "good.jsonl": "no_arrival_day", "later.jsonl": "no_arrival_day"} == dict(actual)  # fmt: skip


def test_a_zone_by_name_moves_no_other_time(store):
    actual = rows(
        store, "select distinct occurred_at::varchar from events where file like '%/zones.jsonl'"
    )

    assert {("2026-01-01 07:00:00",), ("2026-01-01 10:00:00",)} == set(actual)


def test_what_a_name_with_a_dot_hides_is_not_read(store):
    assert [] == rows(
        store, "select file from record_reconciliation where file like '%unfinished%'"
    )


def test_a_second_file_with_the_same_lines_holds_duplicates_alone(store):
    actual = rows(
        store,
        "select event_count, duplicate_count from record_reconciliation where file like '%copy.jsonl'",
    )

    assert [(0, 3)] == actual


def test_of_one_id_with_two_contents_the_first_is_kept_and_the_other_says_what_it_repeats(store):
    assert [("page_view",)] == rows(store, "select event_type from events where event_id = 'twice'")
    assert [("twice",)] == rows(
        store, "select repeats_event_id from duplicate_events where file like '%same_id.jsonl'"
    )


def test_every_reason_is_documented(store, untouched):
    documented = (LIBRARY / "dbt/models/models.yml").read_text()

    assert [] == [
        reason
        for (reason,) in rows(store, "select distinct reason from quarantined_events")
        if reason not in documented
    ]


@pytest.mark.faults
def test_once_a_rule_is_mended_the_next_run_replays_what_was_quarantined_and_says_how_many_came_back(
    store, untouched, tmp_path
):
    repaired = copy_project(untouched, tmp_path / "repaired")
    settings = repaired / "dbt" / "dbt_project.yml"
    settings.write_text(settings.read_text().replace("first_year: 2000", "first_year: 1960"))
    without_pipe = shutil.ignore_patterns("pipe.jsonl")
    copy = Path(shutil.copytree(store, tmp_path / "store", ignore=without_pipe, symlinks=True))

    result = run(repaired, copy, "flows/data.py", "run")

    assert "quarantined records read again, and 1 came back as events" in result.stdout
    assert "came back" not in run(repaired, copy, "flows/data.py", "run").stdout
