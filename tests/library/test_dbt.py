"""The SQL rooms: dbt's own unit tests, what staging makes of odd lines, and that no feature knows what comes after."""

import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import duckdb
import jinja2
import pytest
from whole_path import build, need_simulated_sources

from jollyboat.audit import data_report
from jollyboat.bundles.features import kept_id, rows_of_request
from jollyboat.erasure import erase_plan
from jollyboat.landing.landing import land
from jollyboat.store import LIBRARY, PROJECT, Store, UserError, hash_addresses, hash_personal
from jollyboat.warehouse import warehouse

# What is changed in a good event, and the columns or the quarantine's reason it must end with.
ODD_EVENTS = {
    "offset_is_not_dropped": ({"event.ts": "2026-01-01T12:00:00+02:00"}, {"occurred_at": "2026-01-01 10:00:00"}),
    "no_zone_is_utc": ({"event.ts": "2026-01-01 10:00:00"}, {"occurred_at": "2026-01-01 10:00:00"}),
    "comma_decimals_of_a_second": ({"event.ts": "2026-01-01 10:00:00,5"}, {"occurred_at": "2026-01-01 10:00:00.5"}),
    "epoch_seconds": ({"event.ts": 1767261600}, {"occurred_at": "2026-01-01 10:00:00"}),
    "epoch_milliseconds": ({"event.ts": 1767261600000}, {"occurred_at": "2026-01-01 10:00:00"}),
    "epoch_microseconds": ({"event.ts": "1767261600000000"}, {"occurred_at": "2026-01-01 10:00:00"}),
    "an_offset_after_minutes": ({"event.ts": "2026-01-01T12:00+02:00"}, {"occurred_at": "2026-01-01 10:00:00"}),
    "an_offset_after_a_space": ({"event.ts": "2026-01-01 12:00:00,5 +0200"}, {"occurred_at": "2026-01-01 10:00:00.5"}),
    "a_small_z_is_utc": ({"event.ts": "2026-01-01T10:00:00z"}, {"occurred_at": "2026-01-01 10:00:00"}),
    "utc_by_name": ({"event.ts": "2026-01-01 10:00:00 UTC"}, {"occurred_at": "2026-01-01 10:00:00"}),
    "a_zone_by_another_name_is_none": ({"event.ts": "2026-01-01 10:00:00 BST"}, {"reason": "malformed_time"}),
    "infinity_is_no_time": ({"event.ts": "infinity"}, {"reason": "malformed_time"}),
    "text_is_no_time": ({"event.ts": "yesterday"}, {"reason": "malformed_time"}),
    "time_is_missing": ({"event.ts": None}, {"reason": "no_time"}),
    "time_is_far_ahead": ({"event.ts": "2099-01-01T10:00:00Z"}, {"reason": "in_the_future"}),
    "time_is_long_past": ({"event.ts": "1970-01-01T00:00:00Z"}, {"reason": "too_long_ago"}),
    "arrival_before_occurrence": ({"received": "2026-01-01T09:00:00Z"}, {"received_at": "2026-01-01 09:00:00"}),
    "price_as_text_with_a_comma": ({"product.price": "19,90"}, {"price": "19.9000"}),
    "price_below_zero": ({"product.price": -1}, {"price": None}),
    "price_that_is_none": ({"product.price": "free"}, {"price": None, "unread_price": "xxxx"}),
    "price_with_one_mark_before_three_digits": ({"product.price": "1,299"}, {"price": None, "unread_price": "9,999"}),
    "price_with_a_point_before_three_digits": ({"product.price": "1.299"}, {"price": None, "unread_price": "9.999"}),
    "price_with_a_point_and_spaces": ({"product.price": " 1.299 "}, {"price": None, "unread_price": "9.999"}),
    "price_that_is_a_number_of_three_decimals": ({"product.price": 1.299}, {"price": "1.2990", "unread_price": None}),
    "price_below_one_with_three_decimals": ({"product.price": "0,299"}, {"price": "0.2990"}),
    "price_grouped_by_commas": ({"product.price": "1,299.00"}, {"price": "1299.0000", "unread_price": None}),
    "price_grouped_by_points": ({"product.price": "1.299,00"}, {"price": "1299.0000"}),
    "price_grouped_twice": ({"product.price": "1.299.000"}, {"price": "1299000.0000"}),
    "price_grouped_as_in_india": ({"product.price": "₹1,29,900"}, {"price": "129900.0000"}),
    "price_grouped_by_narrow_spaces": ({"product.price": "1\u202f299,5 €"}, {"price": "1299.5000"}),
    "price_grouped_by_apostrophes": ({"product.price": "1’299.90"}, {"price": "1299.9000"}),
    "price_of_two_groups_of_two": ({"product.price": "12 50"}, {"price": None, "unread_price": "99 99"}),
    "price_with_a_long_fraction": ({"product.price": "19.989999999"}, {"price": "19.9900"}),
    "price_in_exponents": ({"product.price": 1e3}, {"price": "1000.0000"}),
    "quantity_with_an_ambiguous_mark": ({"product.quantity": "1.000"}, {"quantity": None, "unread_quantity": "9.999"}),
    "quantity_with_a_fraction": ({"product.quantity": "3.0"}, {"quantity": "3", "unread_quantity": None}),
    "tenant_is_missing": ({"shop": None}, {"reason": "no_tenant"}),
    "tenant_that_leaves_its_folder": ({"shop": "../x"}, {"reason": "malformed_tenant"}),
    "type_is_missing": ({"event.type": ""}, {"reason": "no_event_type"}),
    "type_never_seen": ({"event.type": "hologram"}, {"event_type": "hologram"}),
    "group_that_is_text": ({"product": "p1"}, {"product_id": None}),
    "braces_and_quotes": ({"search.query": "{{ x }} '; drop table x; --"}, {"query": "{{ x }} '; drop table x; --"}),
    "right_to_left_and_emoji": ({"search.query": "\u0639 \U0001f600"}, {"query": "\u0639 \U0001f600"}),
    "an_address_as_an_id": ({"visitor.user_id": "Ann@shop.example"}, {"user_id": "hash of Ann@shop.example"}),
    "an_address_in_an_address": ({"context.page.url": "https://x.example/?mail=ann%40shop.example&a=1"},
                                 {"url": "https://x.example/?mail=hash of ann@shop.example&a=1"}),
    "an_address_in_another_field": ({"note": "to ann@shop.example", "context.page.name": "of/ann@shop.example"},
                                    {"payload ->> 'note'": "to hash of ann@shop.example",
                                     "page": "of/hash of ann@shop.example"}),
    "an_address_inside_another": ({"context.page.url": "/?k0=cba@x.de&k1=a@x.de&k2=ann%2540x.de"},
                                  {"url": "/?k0=hash of cba@x.de&k1=hash of a@x.de&k2=hash of ann@x.de"}),
    "an_address_in_any_column": (
        {"event.type": "of ann@x.de", "product.id": "ann@x.de", "product.category": "ann@x.de",
         "product.currency": "ann@x.de", "context.channel": "ann@x.de", "context.device": {"type": "ann@x.de"},
         "context.country": "ann@x.de", "ann@x": 1},
        {"event_type": "of hash of ann@x.de", "product_id": "hash of ann@x.de", "category": "hash of ann@x.de",
         "currency": "hash of ann@x.de", "channel": "hash of ann@x.de", "device": "hash of ann@x.de",
         "country": "hash of ann@x.de", "contains(payload, 'ann@')": "false", "contains(structure, 'ann@')": "false"}),
    "an_address_as_a_tenant": ({"shop": "ann@x.de"}, {"reason": "malformed_tenant", "tenant_id": "hash of ann@x.de",
                                                  "contains(line, 'ann@')": "false"}),
    "personal_fields_inside_one_another": (
        {"name": "Ann", "of": {"name": "Ann Lee", "ip": 1, "in": {"ip": 12}}, "product": {"email": "ann%40x.de"}},
        {"payload ->> 'name'": "hash of Ann", "payload ->> '$.of.ip'": "hash of 1", "payload ->> '$.of.in.ip'": "hash of 12",
         "payload ->> '$.product.email'": "hash of ann@x.de"}),
    "personal_fields_in_json_as_text": (
        {"body": json.dumps({"phone": "+49", "name": "ann@shop.example", "in": json.dumps({"ip": "x"})})},
        {"(payload ->> 'body') ->> 'name'": "hash of ann@shop.example", "json_valid(payload)": "true",
         "((payload ->> 'body') ->> 'in') ->> 'ip'": "hash of x", "contains(payload, '+49')": "false"}),
    "personal_fields_of_the_payload": (
        {"customer": {"name": "Ann", "is": [{"e": 1, "Email" : "Ann", "phone": 123}]}},
        {"payload": {"customer": {"name": "hash of Ann", "is": [
            {"e": 1, "Email": "hash of Ann", "phone": "hash of 123"}]}, "context": {"device": {}}, "product": {}}}),
    "a_field_beside_those_that_are_mapped": (
        {"search.result_count": 7, "visitor.segment": "vip", "context.page.section": "help"},
        {"payload": {"visitor": {"segment": "vip"}, "context": {"page": {"section": "help"}}, "product": {},
                     "search": {"result_count": 7}}}),
    "more_fields_than_memory_has_room_to_compare": (
        {f"field_{number}": number for number in range(20_000)}, {"payload ->> 'field_19999'": "19999"}),
    "personal_fields_that_are_groups": (
        {"of": {"name": {"legal": {"last": "Smith"}}, "phone": [["+49"]]}, "name": {"first": "A}nn\"{"}, "after": 1},
        {"json_valid(payload)": "true", "regexp_extract_all(payload, 'Smith|[+]49|nn')": "[]",
         "payload ->> 'after'": "1"}),
}  # fmt: skip
ODD_LINES = {  # as they are kept, and why: no key says what is personal in a line that is no object
    "[]": ("[]", "not_an_object"),
    "3": ("#", "not_an_object"),
    '{"a": 1,': ('{"a": 1,', "unparsable"),
    "null": ("xxxx", "not_an_object"),
    "   ": ("   ", "unparsable"),
    '{"email": "ann", ': ('{"email": "hash of ann", ', "unparsable"),
    "Ann Lee, +49 171": ("xxx xxx, +## ###", "not_an_object"),
}
PIECES = ["a", "ann", "x.de", "@", "%40", "%2540", "\\u0040", "\\", "u0040", "40", "%", " ", "\v", "\n", '"', ",", "/", "=", "&",
          "é", "(", "|", ".", "\U0001f600", "\\\\\\"]  # fmt: skip


def generated_texts(count: int) -> list[str]:
    rng = random.Random(7)
    return ["".join(rng.choices(PIECES, k=rng.randrange(15))) for _ in range(count)]


KEYS = ["name", "Email", "PHONE", "ip", "names", "of", ""]
PERSONAL_PIECES = [*PIECES, '"name"', '"ip":', '\\"email\\"', ":", ": ", "\t", "[", "]", "{", "}", "12", "-1.5e3", "'", '\\\\"phone\\\\":', "null"]  # fmt: skip


def generated_object(rng: random.Random, depth: int = 0) -> dict:
    """Some personal keys and others, with texts, numbers, arrays, objects, and JSON in a text."""

    def value(depth: int) -> object:
        kind = rng.randrange(7 if depth < 5 else 4)
        if kind == 4:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        if kind == 5:
            return generated_object(rng, depth + 1)
        if kind == 6:
            return json.dumps(generated_object(rng, depth + 1), ensure_ascii=rng.random() < 0.5)
        text = "".join(rng.choices(PIECES, k=rng.randrange(6)))
        return [text, rng.randrange(10**9), -rng.random() * 1e-5, rng.choice([None, True])][kind]

    return {rng.choice(KEYS): value(depth) for _ in range(rng.randrange(5))}


def personal_lines(count: int) -> list[str]:
    """Objects as emitters write them, then lines that are no JSON."""
    rng = random.Random(11)
    styles = [
        {},
        {"separators": (",", ":")},
        {"ensure_ascii": False},
        {"separators": (" , ", " : ")},
    ]
    objects = [json.dumps(generated_object(rng), **rng.choice(styles)) for _ in range(count)]
    texts = ["".join(rng.choices(PERSONAL_PIECES, k=rng.randrange(40))) for _ in range(count)]
    return objects + ['{"name' + text.replace("\n", " ") for text in texts]


# Texts that are sent as ids, after the odd lines.
IDS = [
    *("undefined", "NULL", "0", "0.0", "-1", "00000000-0000-0000-0000-000000000000", "(not set)"),
    *("[object Object]", "N/A", "Anonymous", "nan", "17.0", "-17.000", "17.5", "1.0.0", "0a", "a0"),
    *("1e5", "undefined-1", " guest ", "guest2", "007.0"),
]
ORDER = "REAL1"  # which a browser sends as the id of an event of another person


def an_event(number: int, changes: dict) -> dict:
    event = {
        "event": {"id": f"e{number}", "type": "page_view", "ts": "2026-01-01T10:00:00Z"},
        "received": "2026-01-01T10:00:01Z",
        "shop": "acme",
        "visitor": {"anonymous_id": "a"},
        "product": {"id": "p1", "price": 1},
        "search": {},
        "context": {"page": {}},
    }
    for path, value in changes.items():
        *groups, name = path.split(".")
        place = event
        for group in groups:
            place = place[group]
        place[name] = value
    return event


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def staged(folder) -> duckdb.DuckDBPyConnection:
    """A warehouse built from the odd events and lines, one a line of one file."""
    need_simulated_sources()
    store = Store(folder)
    (store.raw / "web" / "dt=2026-01-01").mkdir(parents=True)
    events = [
        json.dumps(an_event(number, changes))
        for number, (changes, _) in enumerate(ODD_EVENTS.values())
    ]
    sent = [json.dumps(an_event(-1, {"event.id": f"order-{ORDER}", "visitor.user_id": "forger"}))]
    for number, text in enumerate(IDS):
        sent.append(json.dumps(an_event(1_000 + number, {"visitor.user_id": text})))
    lines = [*events, *ODD_LINES, *sent]
    (store.raw / "web" / "dt=2026-01-01" / "odd.jsonl").write_text("\n".join(lines))
    (store.raw / "orders" / "dt=2026-01-01").mkdir(parents=True)
    orders = "order_no,shop_code,placed_at,total\n,acme,2026-01-01,1\n,acme,2026-01-01,2\n"
    orders += f"{ORDER},acme,2026-01-02,3\n"
    (store.raw / "orders" / "dt=2026-01-01" / "odd.csv").write_text(orders + "Ann Lee;7\n{Ann}\n")
    orders = [
        {"order_no": f"n{number}", "shop_code": "acme", "placed_at": "2026-01-01", "currency": text}
        for number, text in enumerate(generated_texts(2_000))
    ]
    named = store.raw / "orders" / "dt=2026-01-01" / "of=ann@x.de.jsonl"
    named.write_text("\n".join(map(json.dumps, orders)))
    named.with_name("personal.ndjson").write_text("\n".join(personal_lines(2_000)))
    build(store)
    return duckdb.connect(str(store.warehouse), read_only=True)


def salt_of(staged: duckdb.DuckDBPyConnection) -> str:
    query = "select path from duckdb_databases() where path is not null"
    return (Path(staged.sql(query).fetchone()[0]).parent / ".salt").read_text()


def hashed(expected: str | dict | None, staged: duckdb.DuckDBPyConnection) -> str | None:
    """What is expected, `hash of x` in it being the hash of x with the store's salt."""
    if expected is None:
        return None
    salt = salt_of(staged)
    text = json.dumps(expected, separators=(",", ":")) if isinstance(expected, dict) else expected
    return re.sub(
        r"hash of (\w+(?:@[\w.]+)?)",
        lambda actual: sha256((salt + actual[1]).encode()).hexdigest()[:32],
        text,
    )


@pytest.mark.parametrize("name", ODD_EVENTS)
def test_an_odd_event_has_its_rule(staged, name):
    number, (_, expected) = list(ODD_EVENTS).index(name) + 1, ODD_EVENTS[name]

    columns = ", ".join(f"cast({column} as varchar)" for column in expected)
    (actual,) = staged.sql(
        f"select {columns} from stg_web__events where line_number = {number}"
    ).fetchall()
    assert tuple(hashed(value, staged) for value in expected.values()) == actual


def test_a_text_that_is_no_certain_number_is_counted_and_reported(staged):
    rows = staged.sql(data_report.QUERIES["unread"]).df().to_dict("records")

    messages = data_report.format_unread(rows)
    assert [(row["name"], row["value_count"]) for row in rows] == [("price", 6), ("quantity", 1)]
    assert "6 texts without a certain price" in messages[0] and "stg_web__events.sql" in messages[0]
    assert "most like 9.999" in messages[1]


def test_a_line_that_is_no_event_is_quarantined_with_its_reason(staged):
    actual = staged.sql(
        f"select line, reason from quarantined_events where source = 'web' and line_number > {len(ODD_EVENTS)}"
    ).fetchall()

    assert {hashed(line, staged): reason for line, reason in ODD_LINES.values()} == dict(actual)


def test_of_a_row_of_another_width_only_the_form_is_kept(staged):
    query = (
        "select line, reason from quarantined_events where file like '%.csv' order by line_number"
    )

    assert [("xxx xxx;#", "csv_width"), ("{xxx}", "csv_width")] == staged.sql(query).fetchall()


def test_an_address_in_any_text_is_hashed_alike_by_sql_and_python(staged):
    salt = salt_of(staged)
    query = "select currency, payload from stg_orders__events where order_id like 'n%' order by line_number"
    actual = staged.sql(query).fetchall()

    texts = [text.strip(" ") for text in generated_texts(2_000)]
    assert [(text and hash_addresses(text, salt)) or None for text in texts] == [
        one for one, _ in actual
    ]
    assert sum(text != currency for text, (currency, _) in zip(texts, actual, strict=True)) > 400
    for text, (_, payload) in zip(generated_texts(2_000), actual, strict=True):
        assert hash_addresses(json.dumps(text), salt) in payload


def test_personal_values_are_hashed_alike_by_staging_and_by_the_server(staged):
    salt, fields = salt_of(staged), warehouse.variables().personal_fields
    query = "select payload, line from stg_orders__events where file like '%personal.ndjson' order by line_number"
    actual, lines = staged.sql(query).fetchall(), personal_lines(2_000)

    def row(line: str) -> dict:
        event = {"event_type": "a", "occurred_at": "2026-01-05T10:00:00Z", "payload": line}
        return rows_of_request(0, "acme", [event], salt, fields)[0]

    changed = 0
    for line, (payload, kept) in zip(lines, actual, strict=True):
        if payload is not None:
            assert row(line)["payload"] == payload
            changed += payload != hash_addresses(line, salt)
        assert hash_addresses(hash_personal(line, fields, salt), salt) == kept
    assert changed > 1_000 and sum(payload is None for payload, _ in actual) > 1_900


def test_an_address_in_the_name_of_a_file_is_hashed_in_every_table(staged):
    name = hashed("raw/orders/dt=2026-01-01/of=hash of ann@x.de", staged) + ".jsonl"
    tables = ("landed_files", "events", "record_reconciliation")

    assert {(name,)} == {
        row for table in tables for row in staged.sql(
            f"select distinct file from {table} where file like '%jsonl' and file like '%orders%'"
        ).fetchall()
    }  # fmt: skip
    assert [(0,)] == staged.sql(
        "select count(*) from landed_files where read_from like '%@%'"
    ).fetchall()


def test_orders_without_a_number_are_not_one(staged):
    orders = "select count(*) from events where source = 'orders' and order_id is null"

    assert [(2,)] == staged.sql(orders).fetchall()


def test_an_id_is_the_same_in_staging_and_in_the_server(staged):
    first = len(ODD_EVENTS) + len(ODD_LINES) + 2
    actual = staged.sql(
        f"select user_id from stg_web__events where line_number >= {first} order by line_number"
    ).fetchall()

    assert [(kept_id(text),) for text in IDS] == actual
    assert {"17", "-17", "17.5", "1.0.0", "0a", "a0", "1e5", "undefined-1", "guest2", "007"} == {
        text for (text,) in actual if text
    }


def test_an_id_of_one_source_neither_displaces_nor_erases_an_event_of_another(staged, folder):
    events = f"select source from events where event_id = 'order-{ORDER}'"

    assert {("web",), ("orders",)} == set(staged.sql(events).fetchall())
    plan = erase_plan.plan(Store(folder), {"tenant": None, "person": "forger"}, "keep")
    assert ["raw/web/dt=2026-01-01/odd.jsonl"] == list(plan["files"])


def test_no_record_is_missing_from_the_account(staged):
    assert [(0,)] == staged.sql(
        "select distinct missing_count from record_reconciliation"
    ).fetchall()


@pytest.mark.faults
def test_lines_read_in_portions_and_features_computed_in_chunks_are_those_of_one(copied):
    def rows() -> list[list[tuple]]:
        with warehouse.connect(copied) as connection:
            queries = ("select * exclude (file_seq) from stg_web__events", "from session_features")
            return [connection.sql(f"{query} order by all").fetchall() for query in queries]

    before = rows()
    shutil.rmtree(copied.landed)
    land(copied, *warehouse.source_names(), lines_at_once=5000)
    command = [sys.executable, "-m", "dbt.cli.main", "run", "--vars", "{sessions_at_once: 500}"]
    dbt = subprocess.run(
        command, cwd=PROJECT, env=warehouse.environment(copied), capture_output=True, text=True
    )

    assert dbt.returncode == 0, dbt.stdout[-3_000:]
    assert all(len(table) > 300 for table in before)
    assert len(list(copied.staged.glob("web-*"))) > 10
    assert before == rows()


def test_an_infinite_or_nan_feature_is_null_and_reported(copied):
    with duckdb.connect(str(copied.warehouse)) as connection:
        for value, place in [("inf", "min"), ("nan", "max")]:
            connection.sql(
                f"update int_features set seconds_per_event = '{value}' "
                f"where entity_id = (select {place}(entity_id) from int_features)"
            )
    command = [sys.executable, "-m", "dbt.cli.main", "run", "--select", "session_features"]
    dbt = subprocess.run(
        command, cwd=PROJECT, env=warehouse.environment(copied), capture_output=True, text=True
    )

    assert dbt.returncode == 0, dbt.stdout[-3_000:]
    with warehouse.connect(copied) as connection:
        (unknown,) = connection.sql(
            "select count(*) - count(seconds_per_event) from session_features"
        ).fetchone()
        (message,) = data_report.format_nonfinite(data_report.find_nonfinite(connection))
    assert 2 == unknown
    assert "seconds_per_event is infinite or NaN in 2 sessions" in message


def test_dbts_own_unit_tests_pass(copied):
    command = [sys.executable, "-m", "dbt.cli.main", "test", "--no-use-colors"]

    dbt = subprocess.run(
        command, cwd=PROJECT, env=warehouse.environment(copied), capture_output=True, text=True
    )

    assert dbt.returncode == 0, dbt.stdout[-3_000:]
    assert "ERROR=0" in dbt.stdout and os.path.exists(copied.warehouse)


def test_nothing_after_the_point_is_used(copied):
    """What follows a session's point on the last day becomes a well-known customer's purchases, who logs in again."""
    file = max((copied.raw / "web").glob("*/*"))
    day = file.parent.name.removeprefix("dt=")
    features = "select * exclude (status, label) from session_features where cast(point_at as date) <= ? order by all"
    outcomes = "select count(*) from session_features where label"
    of_the_future = (
        "from events inner join sessions using (tenant_id, session_id) "
        "where event_number > point_number and received_at >= ?"
    )
    with duckdb.connect(str(copied.warehouse), read_only=True) as connection:
        before, bought = (
            connection.execute(features, [day]).fetchall(),
            connection.sql(outcomes).fetchall(),
        )
        later = {
            row[0]
            for row in connection.execute(f"select event_id {of_the_future}", [day]).fetchall()
        }
        log_in_at = dict(
            connection.execute(
                f"select max_by(event_id, event_number), strftime(max(occurred_at) + interval 1 second, '%xT%XZ') "
                f"{of_the_future} group by tenant_id, session_id",
                [day],
            ).fetchall()
        )
        existing = "select tenant_id, max_by(key[3:], outcome_count) from lookup_visitor where key like 'u:%' group by all"
        customers = dict(connection.sql(existing).fetchall())

    lines = []
    for line in gzip.decompress(file.read_bytes()).splitlines():
        for name in re.findall(rb'"event":\{"id":"(\w+)"', line):
            if (name := name.decode()) in later:
                event = json.loads(line)
                event |= {"product": {"id": "p1", "price": 1}, "search": {"query": "anything else"}}
                event["event"]["type"] = "purchase"
                event["visitor"]["user_id"] = customers[event["shop"]]
                line = json.dumps(event).encode()
            if name in log_in_at:
                event["event"] = {"id": f"{name}-again", "type": "log_in", "ts": log_in_at[name]}
                lines.append(json.dumps(event).encode())
        lines.append(line)
    file.write_bytes(gzip.compress(b"\n".join(lines)))
    build(copied)

    with duckdb.connect(str(copied.warehouse), read_only=True) as connection:
        after, sold = (
            connection.execute(features, [day]).fetchall(),
            connection.sql(outcomes).fetchall(),
        )
    assert len(later) > 100 and sold > bought  # the future is another one
    assert before == after


FIELDS = (
    jinja2.Environment()
    .from_string((LIBRARY / "dbt/macros/fields.sql").read_text(encoding="utf-8"))
    .module
)
GA4 = (
    '[{"key": "page", "value": {"string_value": null, "int_value": "7"}}, {"key": "n", "value": 3}]'
)


@pytest.mark.parametrize(
    ("text", "sql", "expected"),
    [
        ('{"$a": {"b.c": [1, 2]}}', FIELDS.default__json_field("t", "$a", "b.c", 1), "2"),
        ('{"it\'s/~": "x"}', FIELDS.default__json_field("t", "it's/~"), "x"),
        ('{"a": {"b": 1}}', FIELDS.default__json_field("t", "a"), '{"b":1}'),
        *[(text, FIELDS.default__json_field("t", "a"), None) for text in (None, "", "none", "[]", "{}")],
        (GA4, FIELDS.key_value("t", "page"), "7"),
        (GA4, FIELDS.key_value("t", "n"), "3"),
        *[(text, FIELDS.key_value("t", "n"), None) for text in (None, "", "none", "[1]", "{}")],
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", FIELDS.device("t"), "bot"),
        ("facebookexternalhit/1.1", FIELDS.device("t"), "bot"),
        *(
            (bot, FIELDS.device("t"), "bot")
            for bot in (
                *("ELB-HealthChecker/2.0", "GoogleHC/1.0", "kube-probe/1.30", "Prometheus/2.53.0"),
                "APIs-Google (+https://developers.google.com/webmasters/APIs-Google.html)",
                "Mozilla/4.5 (compatible; HTTrack 3.0x; Windows 98)",
                *("PostmanRuntime/7.37.3", "GuzzleHttp/7", "undici", "node", "axios/1.7.2"),
                *("python-requests/2.31", "Python/3.11 aiohttp/3.9.5", "python-httpx/0.27.0"),
                *("Go-http-client/2.0", "Apache-HttpClient/5.3 (Java/17.0.9)", "Java/17.0.9"),
                *("Java-http-client/17.0.9", "libwww-perl/6.77", "Wget/1.21.4", "curl/8.5.0"),
                "Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/126.0 Safari/537.36",
                "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
                *("Pingdom.com_bot_version_1.4", "Mozilla/5.0 StatusCake_Pagespeed_Indev"),
                *("WhatsApp/2.23.20.0 A", "Slackbot-LinkExpanding 1.0", "Twitterbot/1.0"),
                "Mozilla/5.0 (compatible; GPTBot/1.1)",
                "Mozilla/5.0 (compatible; ClaudeBot/1.0)",
                "Mozilla/5.0 (Linux; Android 5.0) (compatible; Bytespider)",
                "Mozilla/5.0 (compatible; AhrefsBot/7.0)",
                "Mozilla/5.0 (compatible; SemrushBot/7)",
                "Mozilla/5.0 (Linux; Android 11) Mobile Safari/537.36 Chrome-Lighthouse",
            )
        ),
        ("okhttp/4.12.0", FIELDS.device("t"), "desktop"),
        ("MyShop/3.2 (iPhone; iOS 17.5) CFNetwork/1496", FIELDS.device("t"), "mobile"),
        ("Mozilla/5.0 (Linux; Android 9; CUBOT_X19) Chrome/99 Mobile Safari", FIELDS.device("t"), "mobile"),
        ("Mozilla/5.0 (iPad; CPU OS 16_0 like Mac OS X) Mobile/15E148", FIELDS.device("t"), "tablet"),
        ("Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0", FIELDS.device("t"), "desktop"),
        (None, FIELDS.device("t"), None),
    ],
)  # fmt: skip
def test_a_field_a_key_and_a_device_are_read_from_a_text(text, sql, expected):
    with duckdb.connect() as connection:
        actual = connection.execute(f"select {sql} from (select $1::varchar as t)", [text])

        assert (expected,) == actual.fetchone()


@pytest.mark.parametrize("name", ["a?b", "a#b"])
def test_a_path_that_dbt_would_cut_is_refused_by_name(tmp_path, name):
    with pytest.raises(UserError, match=r"has a '[?#]'. Rename that folder"):
        warehouse.start_dbt(Store(tmp_path / name), lock=0, landing=None)


def test_a_model_of_the_project_replaces_the_librarys_and_dbt_does_not_warn(tmp_path):
    project = tmp_path / "dbt"
    shutil.copytree(
        PROJECT / "dbt", project, ignore=shutil.ignore_patterns("dbt_packages", "target")
    )
    (project / "dbt_packages").mkdir()
    (project / "dbt_packages/jollyboat").symlink_to(LIBRARY / "dbt")
    shutil.copy(LIBRARY / "dbt/models/marts/sessions.sql", project / "models")
    with (project / "dbt_project.yml").open("a") as file:
        file.write("  jollyboat:\n    marts:\n      sessions:\n        +enabled: false\n")
    place = {"DBT_PROJECT_DIR": str(project)}

    parsed = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "parse", "--no-use-colors", "--no-partial-parse"],
        env=warehouse.environment(Store(tmp_path / "data")) | place,
        capture_output=True,
        text=True,
    )

    parents = json.loads((tmp_path / "data/dbt/target/manifest.json").read_text())["parent_map"]
    assert parsed.returncode == 0 and "require_ref" not in parsed.stdout, parsed.stdout
    assert "model.project.sessions" in parents["model.jollyboat.int_features"]
