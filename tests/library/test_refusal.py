"""A refusal of the data offers to accept days only where the staging model maps most records."""

from pathlib import Path

import duckdb
import pytest

from jollyboat.audit import audit, data_report
from jollyboat.audit.finding import Finding
from jollyboat.store import Store, UserError

GOOD = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x"}}
ACCEPT = "`jollyboat land --accept`"


def refuse(folder: Path, table: str, event_count: int, visitor_count: int) -> str:
    """The refusal for the source app, which has 1,000 records, because this table failed."""
    key = {"tenant_id": "acme", "source": "app", "observed": "x"}
    finding = Finding(table, "a claim", "critical", False, "1 row", [key], {"acme": "x"})
    with duckdb.connect() as connection:
        connection.execute(
            "create table int_records as select 'app' as source, "
            "if(n >= $events, 'no_time', null) as reason, if(n < $visitors, 'v', null) as user_id, "
            "null::varchar as anonymous_id, null::varchar as session_id from range(1000) as r(n)",
            {"events": event_count, "visitors": visitor_count},
        )
        unmapped = connection.sql(data_report.QUERIES["unmapped"]).df().to_dict("records")
    report = {"absent_fields": [], "unmapped": unmapped}
    return data_report.refusal([finding], Store(folder), report)


@pytest.mark.parametrize(
    ("table", "counts", "shortage"),
    [
        ("missing_ids", (1000, 0), "Less than 10 % of app's events have a visitor"),
        ("missing_ids", (1000, 99), "Less than 10 % of app's events have a visitor"),
        ("tenant_days", (0, 0), "Less than 10 % of app's records are events"),
    ],
)
def test_days_of_a_model_that_maps_nearly_no_record_are_not_to_be_accepted(
    tmp_path, table, counts, shortage
):
    message = refuse(tmp_path, table, *counts)

    assert f"{shortage}: correct its staging model" in message
    assert "dbt/models/staging/stg_app__events.sql" in message
    assert ACCEPT not in message


@pytest.mark.parametrize(
    ("table", "counts"),
    [("missing_ids", (1000, 600)), ("tenant_days", (700, 700)), ("tenant_days", (700, 0))],
)
def test_days_of_a_model_that_maps_most_records_can_be_accepted_after_a_look_at_it(
    tmp_path, table, counts
):
    message = refuse(tmp_path, table, *counts)

    assert -1 < message.find("staging model") < message.find(ACCEPT)
    assert "Less than 10 %" not in message


def test_a_first_refusal_names_no_snapshot_before(tmp_path):
    message = refuse(tmp_path, "missing_ids", 1000, 600)

    assert "Nothing was published. FAILED (critical)" in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"type": "expect_column_values_to_not_be_nul"}, "type .*_nul'.*Did you mean .*_null"),
        ({"severity": "critcal"}, "severity 'critcal'. It is one of critical, warning, info"),
    ],
)
def test_a_misspelt_expectation_stops_the_audit_and_is_named(change, problem):
    audit._refuse_misspelt([GOOD, GOOD | {"severity": "warning"}], Path("events.json"))

    with pytest.raises(UserError, match=f"Entry 2 of events.json has the {problem}"):
        audit._refuse_misspelt([GOOD, GOOD | change], Path("events.json"))
