"""Each expectation fails on a table that breaks it, and no unrelated one does."""

import json
import re
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import duckdb
import pytest

from jollyboat.audit import absent_fields, audit, data_report, held
from jollyboat.landing.landing import land
from jollyboat.simulate.simulate import simulate
from jollyboat.snapshots import snapshot
from jollyboat.store import PROJECT, Store
from jollyboat.warehouse import warehouse

SOME = "(select entity_id from session_features limit 2)"
EVENT = "event_type = 'page_view' and session_id is not null"
CHANGE = "insert into source_changes select 'web', '{}', 'a', current_date, 'x', 'y', 0, 1, true"
MISSING = (
    "insert into missing_ids by name select 'acme' as tenant_id, 'web' as source, id_column, arrived_on, 100 as event_count, "
    "1 as missing_share, false as is_accepted, 0 as usual_share, true as is_unusual "
    "from unnest([date '2026-01-02', '2026-01-03']) as days (arrived_on), "
    "unnest(['visitor', 'anonymous_id']) as ids (id_column)"
)
# For each expectation: the statement that makes it fail, and the others that must fail with it.
CASES = {
    ("events", "there are events"): (
        "delete from events",
        {"every duplicate repeats an event"},
    ),
    ("events", "event ids are unique"): (
        f"insert into events select * from events where {EVENT} limit 1",
        set(),
    ),
    ("events", "every event has a type"): (
        f"update events set event_type = null where {EVENT}",
        set(),
    ),
    ("events", "every event has a time"): (
        f"update events set occurred_at = null where {EVENT}",
        set(),
    ),
    ("events", "every event has a time of arrival"): (
        f"update events set received_at = null where {EVENT}",
        set(),
    ),
    ("events", "every event has a tenant"): (
        "insert into events select * replace (null as tenant_id, null as session_id) "
        f"from events where {EVENT} limit 1",
        set(),
    ),
    ("events", "prices are between 0 and 1,000,000"): (
        f"update events set price = 1000001 where event_id = (select min(event_id) from events where {EVENT})",
        set(),
    ),
    ("events", "at most 20 prices of a tenant and source, or 20 %, are above 1,000,000"): (
        "update events set price = 1000001 where price is not null",
        {"prices are between 0 and 1,000,000"},
    ),
    ("events", "quantities are between 0 and 100,000"): (
        f"update events set quantity = -1 where {EVENT}",
        set(),
    ),
    ("events", "at least 90 % of the events belong to a session"): (
        "update events set session_id = null where hash(event_id) % 5 = 0",
        set(),
    ),
    ("events", "every event's session is in sessions"): (
        f"update events set session_id = 'nowhere' where {EVENT}",
        set(),
    ),
    (
        "record_reconciliation",
        "every line is an event, a duplicate, quarantined or left out (docs/bring-your-own-logs.md: left_out, part)",
    ): (
        "update record_reconciliation set missing_count = 1 where source = 'orders'",
        set(),
    ),
    (
        "record_reconciliation",
        "at most 20 records of a source, or 20 %, are quarantined without a tenant",
    ): (
        "insert into quarantined_events (source, file, line_number, reason) "
        "select 'orders', min(file), number, 'no_tenant' from quarantined_events "
        "cross join range(10000, 12000) as lines (number) group by all",
        set(),
    ),
    ("record_reconciliation", "at most 2 % of a source's records are quarantined"): (
        "update record_reconciliation set quarantined_count = 0.1 * line_count where source = 'web'",
        set(),
    ),
    ("record_reconciliation", "no source is more than three days behind the others"): (
        "update record_reconciliation set arrived_on = arrived_on - 5 where source = 'orders'",
        set(),
    ),
    ("duplicate_events", "every duplicate repeats an event"): (
        "update duplicate_events set repeats_event_id = 'nothing'",
        set(),
    ),
    ("quarantined_events", "every quarantined line has a reason"): (
        "update quarantined_events set reason = null",
        set(),
    ),
    ("quarantined_events", "a line is quarantined once"): (
        "insert into quarantined_events select * from quarantined_events limit 1",
        set(),
    ),
    ("quarantined_events", "a file with ten records has an event"): (
        "insert into quarantined_events (source, file, line_number, reason) "
        "select 'web', 'f', line_number, 'no_time' from range(1, 11) as lines (line_number)",
        set(),
    ),
    (
        "quarantined_events",
        "every file can be read, or `jollyboat land --accept` leaves it out",
    ): (
        "update quarantined_events set line_number = 0 where (file, line_number) = "
        "(select (file, line_number) from quarantined_events limit 1)",
        set(),
    ),
    ("sessions", "session ids are unique"): (
        "insert into sessions select * from sessions limit 1",
        set(),
    ),
    ("sessions", "a session ends after it starts"): (
        "update sessions set ended_at = started_at - interval 1 second",
        set(),
    ),
    ("sessions", "a session has events"): ("update sessions set event_count = 0", set()),
    ("sessions", "every session has a start"): ("update sessions set started_at = null", set()),
    ("session_features", "each session has one prediction point"): (
        "insert into session_features select * from session_features limit 1",
        set(),
    ),
    ("session_features", "every session has a valid status"): (
        "update session_features set status = 'asleep' where status = 'short'",
        {"no feature's distribution is far from the last snapshot's"},
    ),
    ("session_features", "sessions with status train have a label, and no others"): (
        "update session_features set label = false where entity_id in "
        "(select entity_id from session_features where status = 'short' limit 2)",
        set(),
    ),
    ("session_features", "no session lasts less than 0 seconds"): (
        f"update session_features set seconds_so_far = -1 where entity_id in {SOME}",
        set(),
    ),
    ("session_features", "the label's rate of each tenant is between 0.1 % and 60 %"): (
        "update session_features set label = true where label is not null and tenant_id = "
        "(select tenant_id from session_features group by all order by count(label) desc limit 1)",
        {
            "no feature's distribution is far from the last snapshot's",
            "the label's rate is near the last snapshot's",
        },
    ),
    ("session_features", "every session has a prediction point"): (
        f"update session_features set point_at = null where entity_id in {SOME}",
        set(),
    ),
    ("session_features", "every session with features is in sessions"): (
        f"update session_features set entity_id = 'nowhere' || entity_id where entity_id in {SOME}",
        set(),
    ),
    ("session_features", "the outcome is neither always true nor always false"): (
        "update session_features set label = false where label",
        {
            "the label's rate of each tenant is between 0.1 % and 60 %",
            "the label's rate is near the last snapshot's",
            "no feature's distribution is far from the last snapshot's",
        },
    ),
    ("fct_predictions", "request ids are unique"): (
        "insert into fct_predictions (tenant_id, request_id) values ('acme', 'r'), ('acme', 'r')",
        set(),
    ),
    ("fct_predictions", "a probability is between 0 and 1"): (
        "insert into fct_predictions (tenant_id, request_id, probability) values ('acme', 'r', 1.5)",
        set(),
    ),
    ("judgements", "at most one judgement of a session is in effect"): (
        "insert into judgements (tenant_id, entity_id, judgement, is_in_effect) "
        "values ('acme', 's', 'fit', true), ('acme', 's', 'cannot_say', true)",
        set(),
    ),
    ("judgements", "every judgement has a valid value"): (
        "insert into judgements (tenant_id, entity_id, judgement, is_in_effect) values ('acme', 's', 'good', true)",
        set(),
    ),
    ("missing_ids", "no day's events lack the ids of their visitors, unless the day is accepted"): (
        MISSING,
        set(),
    ),
    (
        "tenant_days",
        "at most 20 records of a tenant and source, or 20 %, are quarantined since any day, unless accepted",
    ): (
        "update tenant_days set is_quarantined = true, quarantine_reason = 'no_time' where source = 'web'",
        set(),
    ),
    (
        "tenant_days",
        "no tenant's newest day has less than a tenth of its usual records, unless accepted",
    ): (
        "update tenant_days set is_collapsed = true, usual_count = 99.5 where tenant_id = 'acme'",
        set(),
    ),
    ("source_changes", "no field of a source disappeared recently"): (CHANGE.format("gone"), set()),
    ("source_changes", "no field of a source changed its type recently"): (
        CHANGE.format("retyped"),
        set(),
    ),
    ("source_changes", "no field's share of empty values changed much recently"): (
        CHANGE.format("nulls"),
        set(),
    ),
    ("source_changes", "no recent day of a source has an unusual number of records"): (
        CHANGE.format("volume"),
        set(),
    ),
    ("source_changes", "no field and no event type is new"): (CHANGE.format("new"), set()),
    ("distributions", "no feature's distribution is far from the last snapshot's"): (
        "update session_features set max_price = max_price * 10",
        set(),
    ),
    ("distributions", "the label's rate is near the last snapshot's"): (
        "update session_features set label = hash(entity_id) % 3 = 0 where label is not null",
        set(),
    ),
}
NO_ROW_IS_TO_BLAME = {"there are events"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Store:
    """A store with a built warehouse and a snapshot of it."""
    store = Store(tmp_path_factory.mktemp("audited") / "$a 10% data")
    simulate(store.raw, None, seed=7, start=date(2026, 1, 1), days=4, sessions_per_day=250)
    with warehouse.locked(store) as lock:
        landing = land(store, warehouse.variables().sources)
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landing))
    snapshot.publish(store, {"code": "c"}, "select 1", {})
    return store


def changed(built: Store, folder: Path, statement: str) -> Store:
    """A copy of the store after the statement."""
    store = Store(
        Path(
            shutil.copytree(
                built.root, folder / "data", ignore=shutil.ignore_patterns("raw", "dbt")
            )
        )
    )
    with duckdb.connect(str(store.warehouse)) as connection:
        connection.execute(statement)
    return store


def suites_that_read(statement: str, folder: Path) -> Path:
    """The suites that name the table which the statement changes; the others give the same result."""
    table = re.search(r"(?:from|into|update|table) (\w+)", statement)[1]
    (folder / "suites").mkdir()
    for path in audit.find_suites():
        if re.search(rf"\b{table}\b", path.read_text()) or (path.stem, table) == (
            "distributions",
            "session_features",
        ):
            shutil.copy(path, folder / "suites")
    return folder / "suites"


def failed(store: Store, folders: Sequence[Path] = audit.SUITES) -> dict[str, audit.Finding]:
    findings = audit.audit(store, snapshot.find_latest(store), folders)
    return {finding.expectation: finding for finding in findings if not finding.passed}


def test_nothing_fails_of_what_was_built(built):
    assert failed(built) == {}


def test_every_expectation_has_a_case():
    suites = {path.stem: json.loads(path.read_text()) for path in audit.find_suites()}
    expected = {
        (table, each["description"])
        for table, suite in suites.items()
        for each in suite["expectations"]
    }

    assert expected == set(CASES)


@pytest.mark.parametrize(("table", "expectation"), CASES, ids=lambda name: name.replace(" ", "_"))
def test_an_expectation_fires_with_the_keys_of_its_rows_and_none_unrelated(
    built, tmp_path, table, expectation
):
    statement, related = CASES[table, expectation]

    findings = failed(changed(built, tmp_path, statement), [suites_that_read(statement, tmp_path)])

    assert set(findings) == {expectation} | related
    assert findings[expectation].table == table
    assert findings[expectation].keys or expectation in NO_ROW_IS_TO_BLAME


def test_the_shops_staging_models_read_no_field_that_its_records_lack(built):
    with warehouse.connect(built) as connection:
        assert absent_fields.find(connection) == []


def test_a_distribution_that_failed_is_printed_with_its_feature(built, tmp_path):
    statement, _ = CASES[
        "distributions", "no feature's distribution is far from the last snapshot's"
    ]
    store = changed(built, tmp_path, statement)

    findings = failed(store, [suites_that_read(statement, tmp_path)])
    (line,) = data_report._format_findings(list(findings.values()))

    assert re.search(r"\(1 of \d+ rows: max_price\)$", line)


def test_each_day_without_visitors_is_listed_once_with_the_command_that_accepts_all(
    built, tmp_path
):
    store = changed(built, tmp_path, MISSING)

    findings = failed(store, [suites_that_read(MISSING, tmp_path)])
    message = data_report.refusal(list(findings.values()), store)
    accepted = warehouse.accept_days(store)

    missing = "missing in 100.0 %, usually 0.0 %"
    assert f"2026-01-02 (anonymous_id {missing}; visitor {missing}), 2026-01-03 (an" in message
    assert 1 == message.count("2026-01-02") and "`jollyboat land --accept`" in message
    assert ["web/dt=2026-01-02 of acme", "web/dt=2026-01-03 of acme"] == accepted
    assert ["2026-01-02", "2026-01-03"] == [
        day["arrived_on"] for day in json.loads(store.accepted_days.read_text())
    ]


@pytest.mark.parametrize(
    ("table", "remedies", "others"),
    [
        ("sessions", ["library's", "of the same name in expectations/"], ["the suite in"]),
        ("events", ["the suite in expectations/"], ["library's"]),
    ],
)
def test_a_refusal_says_whose_suite_it_is(tmp_path, table, remedies, others):
    finding = audit.Finding(table, "a claim", "critical", False, "1 row", [])

    message = data_report.refusal([finding], Store(tmp_path))

    assert all(words in message for words in [*remedies, "then run `make data` again"])
    assert not any(words in message for words in others)


def test_records_of_one_client_stop_nobody(built, tmp_path):
    """One record breaks each rule that a client's values can break: all are reported, none stops."""
    one = f"event_id = (select min(event_id) from events where {EVENT})"
    store = changed(
        built, tmp_path, f"update events set price = 1290000, quantity = -1 where {one}"
    )
    with duckdb.connect(str(store.warehouse)) as connection:
        connection.execute(
            "update record_reconciliation set quarantined_count = 1, line_count = 2 where source = 'orders'"
        )

    findings = failed(store)

    assert {
        "prices are between 0 and 1,000,000",
        "quantities are between 0 and 100,000",
        "at most 2 % of a source's records are quarantined",
    } <= set(findings)
    assert not [each.expectation for each in findings.values() if each.stops]


@pytest.mark.parametrize(
    ("severity", "stops"), [("critical", True), ("warning", False), ("info", False)]
)
def test_the_severity_in_the_suite_decides_whether_a_change_of_a_source_stops(
    built, tmp_path, severity, stops
):
    suite = (PROJECT / "expectations/source_changes.json").read_text()
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/source_changes.json").write_text(
        suite.replace('"warning"', f'"{severity}"')
    )

    findings = audit.audit(
        changed(built, tmp_path, CHANGE.format("gone")), folders=[tmp_path / "suites"]
    )

    assert [each.stops for each in findings if not each.passed] == [stops]


def test_a_suite_of_the_project_replaces_the_librarys_of_the_same_name(tmp_path):
    (tmp_path / "sessions.json").write_text("{}")

    suites = audit.find_suites([*audit.SUITES, tmp_path])

    assert [path for path in suites if path.stem == "sessions"] == [tmp_path / "sessions.json"]
    assert {path.stem for path in suites} == {path.stem for path in audit.find_suites()}


def test_more_rows_than_gx_takes_are_counted_all(built, tmp_path):
    store = changed(built, tmp_path, f"update events set session_id = 'nowhere' where {EVENT}")
    with duckdb.connect(str(store.warehouse)) as connection:
        (count,) = connection.sql(
            "select count(*) from events where session_id = 'nowhere'"
        ).fetchone()

    assert count > 200
    assert f"{count:,} rows" == failed(store)["every event's session is in sessions"].observed


@pytest.mark.parametrize(
    "statement",
    [
        "update events set session_id = 'nowhere' where session_id is not null and {}",
        "update sessions set event_count = 0 where {}",
        "update session_features set seconds_so_far = -1 where {}",
        "update events set price = 5000000 where price is not null and {}",
        "insert into sessions select * from sessions where {}",
    ],
)
def test_a_critical_finding_names_every_tenant_whose_rows_fail(built, tmp_path, statement):
    """GX keeps 20 or 200 rows, of which acme alone has more."""
    store = changed(built, tmp_path, statement.format("tenant_id in ('acme', 'initech')"))

    findings = [each for each in failed(store).values() if each.stops]

    assert [{"acme", "initech"}] == [set(each.tenants) for each in findings]
    reasons, stops = held.find_held(store, findings)
    assert ({"acme", "initech"}, []) == (reasons.keys(), stops)
    assert all(findings[0].expectation in reason for reason in reasons.values())


def test_a_finding_without_tenants_or_about_all_of_them_stops_everybody(built, tmp_path):
    without = changed(built, tmp_path / "without", CASES["events", "every event has a tenant"][0])
    of_all = changed(built, tmp_path / "all", "update sessions set event_count = 0")

    for store, expectation in (
        (without, "every event has a tenant"),
        (of_all, "a session has events"),
    ):
        findings = failed(store)
        tenants, stops = held.find_held(store, findings.values())
        assert ({}, [findings[expectation]]) == (tenants, stops)


def test_a_missing_column_is_a_finding_and_not_a_crash(built, tmp_path):
    findings = failed(changed(built, tmp_path, "alter table events drop column quantity"))

    assert set(findings) == {"quantities are between 0 and 100,000"}
    assert "quantity" in findings["quantities are between 0 and 100,000"].observed


def test_the_keys_of_failed_rows_are_saved_and_data_docs_load_nothing_from_elsewhere(
    built, tmp_path
):
    store = changed(built, tmp_path, "update sessions set event_count = 0")
    failed(store)

    (saved,) = json.loads(store.failed_rows.read_text())
    pages = {path.stem: path.read_text() for path in store.data_docs.glob("*.html")}
    assert saved["table"] == "sessions" and {"tenant_id", "session_id"} <= set(saved["keys"][0])
    assert set(pages) == {path.stem for path in audit.find_suites()} | {"index"}
    assert all(f'<a href="{table}.html">' in pages["index"] for table in set(pages) - {"index"})
    assert all('<a href="index.html">' in page for page in pages.values() if page != pages["index"])
    assert "a session has events" in pages["sessions"]
    assert all(
        'src="http' not in page and "<link" not in page and "<script" not in page
        for page in pages.values()
    )
