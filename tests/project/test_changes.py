"""An unannounced change of a source is found, dated, and reported with a remedy."""

import csv
import json
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from jollyboat.landing.landing import land
from jollyboat.store import Store
from jollyboat.warehouse import changes, warehouse

FIRST, DAYS, LINES, CHANGED = date(2026, 3, 2), 28, 80, 21
SEARCHES = ("red shoes", "lamp", "blue mug")


def an_event(day: int, place: int) -> dict:
    """An event of the simulated shop's browser; from day CHANGED on, much about it is different."""
    when, later = FIRST + timedelta(day), day >= CHANGED
    product = {
        "id": f"p{place % 9}",
        "price": str(place + 0.5) if later else place + 0.5,
        "currency": "EUR",
    }
    context = {
        "device": {"type": "mobile"},
        "vanishing": {"deep": place},
        "rare": {f"k{day}{place}": 1},
    }
    return {
        "event": {
            "id": f"e{day}-{place}",
            "type": "hologram" if later and place == 7 else "page_view",
            "ts": f"{when}T10:{place % 60:02}:00Z",
        },
        "shop": "acme",
        "visitor": {"anonymous_id": f"a{place % 12}"},
        "product": product,
        "context": context
        if not later
        else {"device": {"type": "mobile"}, "consent": place % 2 == 0},
        "search": {"query" if not later else "term": SEARCHES[place % 3]},
        "page_no" if not later else "page_number": place % 5,
        "Price [EUR]" if not later else "price.eur": 100 + place % 5,
        "coupon": "yes" if later and place % 2 else None if place % 10 else "yes",
    }


@pytest.fixture(scope="module")
def noticed(tmp_path_factory) -> tuple[Store, list[dict]]:
    """Four weeks; in the last one fields are renamed, retyped, gone, new and emptier, and one day is small.

    On Tuesdays the second source has few records, which is usual.
    """
    store = Store(tmp_path_factory.mktemp("changed") / "data")
    for day in range(DAYS):
        when = FIRST + timedelta(day)
        write(
            store, "web", when, [an_event(day, place) for place in range(8 if day == 24 else LINES)]
        )
        orders = range(2 if when.weekday() == 1 else 20)
        write(
            store,
            "orders",
            when,
            [
                {"shop_code": "acme", "order_no": f"{day}-{n}", "placed_at": f"{when}T11:00:00Z"}
                for n in orders
            ],
        )
    with warehouse.locked(store) as lock:
        landing = land(store, ["web", "orders"])
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landing))
    with duckdb.connect(str(store.warehouse), read_only=True) as connection:
        return store, changes.find(connection, store)


def test_a_csv_reports_nulls_and_types_as_json_lines_do(tmp_path):
    """The same records as a CSV and as JSON lines: from the eighth day on price, brand and score are other."""
    store = Store(tmp_path / "data")
    for day in range(12):
        when, later = FIRST + timedelta(day), day >= 7
        records = [
            {
                "shop": "acme",
                "when": f"{when}T10:{place:02}:00Z",
                "note": f'a "quoted": " " or "7", {place}',
                "price": None if later else place + 0.5,
                "brand": None if later and place % 2 else "b",
                "score": "n/a" if later else 42,
            }
            for place in range(40)
        ]
        write(store, "web", when, records)
        file = store.raw / "orders" / f"dt={when}" / "a.csv"
        file.parent.mkdir(parents=True)
        with file.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, records[0])
            writer.writeheader()
            writer.writerows(records)
    with warehouse.locked(store) as lock:
        landing = land(store, ["web", "orders"])
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landing))

    with warehouse.connect(store) as connection:
        rows = connection.sql("select source, kind, field from source_changes").fetchall()

    expected = {("gone", "price"), ("nulls", "brand"), ("retyped", "score")}
    assert expected == {row[1:] for row in rows if row[0] == "web"}
    assert expected == {row[1:] for row in rows if row[0] == "orders"}


def write(store: Store, source: str, when: date, records: list[dict]) -> None:
    file: Path = store.raw / source / f"dt={when}" / "a.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(map(json.dumps, records)))


CHANGED_ON = str(FIRST + timedelta(CHANGED))
EXPECTED = {
    ("renamed", "search.query → search.term", CHANGED_ON),
    ("renamed", "page_no → page_number", CHANGED_ON),
    ("retyped", "product.price", CHANGED_ON),
    ("gone", "context.vanishing.deep", CHANGED_ON),
    ("new", "context.consent", CHANGED_ON),
    ("renamed", '"Price [EUR]" → "price.eur"', CHANGED_ON),
    ("nulls", "coupon", CHANGED_ON),
    ("event_type", "hologram", CHANGED_ON),
    ("volume", "records of the day", str(FIRST + timedelta(24))),
}


def test_each_change_is_found_once_with_its_day_and_nothing_else_is(noticed):
    _, rows = noticed

    reported = [(row["kind"], row["field"], str(row["changed_on"].date())) for row in rows]
    assert len(reported) == len(set(reported))
    assert set(reported) == EXPECTED
    assert {row["source"] for row in rows} == {"web"}


def test_the_report_of_a_rename_suggests_the_coalesce_in_the_staging_model(noticed):
    _, rows = noticed

    hint = next(row["hint"] for row in rows if row["field"].startswith("page_no"))
    assert "coalesce(record ->> '$.page_no', record ->> '$.page_number')" in hint
    assert "stg_web__events.sql" in hint


def test_a_new_field_says_how_it_becomes_a_feature(noticed):
    _, rows = noticed

    assert any("payload ->> '$.context.consent'" in row["hint"] for row in rows)


def test_what_the_last_snapshot_knew_is_no_news(noticed):
    store, _ = noticed
    with duckdb.connect(str(store.warehouse), read_only=True) as connection:
        earlier = (
            connection.sql("select * from source_changes where kind != 'retyped'")
            .df()
            .to_dict("records")
        )

        again = changes.find(connection, store, earlier)

    assert [row["field"] for row in again if row["is_news"]] == ["product.price"]


def test_fields_whose_names_are_data_are_left_out(noticed):
    store, _ = noticed
    with duckdb.connect(str(store.warehouse), read_only=True) as connection:
        fields = connection.sql(
            "select distinct field from source_fields where source = 'web'"
        ).fetchall()

    assert ("context.device.type",) in fields
    assert not any(field.startswith("context.rare") for (field,) in fields)
