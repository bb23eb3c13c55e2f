"""A field that a staging model reads and no record has is named, and no field that some records have."""

import json
from pathlib import Path

import duckdb
import pytest
from runs import read_guide

from jollyboat.audit import data_report
from jollyboat.audit.absent_fields import find, format_absent, read_fields
from jollyboat.audit.finding import Finding
from jollyboat.store import LIBRARY, Store

RECORDS = [
    {"when": "2026-03-01", "visitor": "v1", "came_from": "ad", "item": {"price": 3}},
    {"when": "2026-03-01", "visitor": "v2", "came_from": None, "item": {"colour": "red"}},
    {"when": "2026-03-02", "visitor": None, "plan": "basic", "item": None},
]


def absent(
    tmp_path: Path, sql: str, records: list = RECORDS, reason: str | None = None
) -> list[dict]:
    """What is found in the staging model `sql` of the source app with these records."""
    folder = tmp_path / "models/staging"
    folder.mkdir(parents=True)
    (folder / "stg_app__events.sql").write_text(sql)
    with duckdb.connect() as connection:
        connection.execute(
            "create table int_records as select 'app' as source, 1 as part, $reason as reason, "
            "null::varchar as line, payload, if(n <= 100, cast(json_structure(payload) as varchar), null) as structure "
            "from (select unnest($texts) as payload, generate_subscripts($texts, 1) as n)",
            {"texts": [json.dumps(record) for record in records], "reason": reason},
        )
        return find(connection, tmp_path)


def names(*arguments: object) -> list[tuple[str, str]]:
    return [(each["field"], each["nearest"]) for each in absent(*arguments)]


def test_a_field_that_no_record_has_is_named_with_the_nearest_one(tmp_path):
    (line,) = format_absent(absent(tmp_path, "select record ->> 'came_form' as channel"))

    assert line == (
        "note: stg_app__events.sql reads 'came_form', which none of 3 records of app has; "
        "did you mean 'came_from'? (fields: when, visitor, came_from, item, plan)"
    )


def test_a_refusal_begins_with_the_field_that_no_record_has(tmp_path):
    finding = Finding("sessions", "a claim", "critical", False, "1 row", [])
    lines = format_absent(absent(tmp_path, "select record ->> 'vistor' as anonymous_id"))

    report = {"absent_fields": lines, "unmapped": []}
    message = data_report.refusal([finding], Store(tmp_path), report)

    assert message.startswith("stg_app__events.sql reads 'vistor'")
    assert "did you mean 'visitor'?" in message.partition("\n")[0]


def test_fields_that_some_records_have_are_not_named(tmp_path):
    sql = """select record ->> 'when', record->'plan', record -> 'item' ->> 'price',
        record ->> '$.item.colour', json_extract_string(record, '$."came_from"')"""

    assert names(tmp_path, sql) == []


def test_a_field_outside_the_sample_is_not_named(tmp_path):
    records = [*RECORDS * 40, {"refund": 1}]

    assert names(tmp_path, "select record ->> 'refund', record ->> 'refunt'", records) == [
        ("refunt", "")
    ]


def test_a_field_in_a_group_is_named_where_it_is_near_one_that_is_not_read(tmp_path):
    sql = """select record ->> '$.item.prise', record -> 'item' ->> 'discount',
        record ->> '$.itme.price', record -> 'when' ->> 'zone'"""

    assert names(tmp_path, sql) == [("item.prise", "item.price"), ("itme", "item")]


def test_each_absent_field_is_named_where_no_record_is_an_event(tmp_path):
    sql = "select record ->> '$.item.kind' as event_type"

    assert names(tmp_path, sql, RECORDS, "no_event_type") == [("item.kind", "")]


def test_alternatives_are_named_only_where_one_is_near_a_field_that_is_not_read(tmp_path):
    sql = """select coalesce(record ->> 'visitor', (record ->> 'visitors')),
        coalesce(record ->> 'vip', record ->> 'came_fron'),
        json_transform(record, '{"plann": "VARCHAR", "item": {"price": "VARCHAR", "size": "JSON"}}')
    """

    assert names(tmp_path, sql) == [("plann", "plan"), ("came_fron", "came_from")]


@pytest.mark.parametrize(
    "sql",
    [
        "{# record ->> 'a' #} select 1 -- record ->> 'a'",
        "select record ->> '{{ key }}', record ->> '$.items[*].a', record ->> '/a'",
        "select * replace (json_merge_patch(record, '{}') as record), record ->> 'mail' from r",
        "select element ->> 'a', properties ->> 'a', json_transform(record, '{{ form }}')",
    ],
)
def test_what_the_text_does_not_say_is_not_checked(sql):
    assert read_fields(sql) == {}


@pytest.mark.parametrize("guide", ["ga4", "segment", "posthog"])
def test_the_model_of_a_guide_reads_what_its_records_have(tmp_path, guide):
    steps = {step.kind: step.text for step in read_guide(LIBRARY / f"how_to/logs-from-{guide}.md")}
    records = [json.loads(line) for line in steps["json"].splitlines()]

    assert names(tmp_path, steps["sql"], records) == []
