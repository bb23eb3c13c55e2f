"""The SQL and the expectations that this project decides."""

from jollyboat.store import PROJECT
from jollyboat.testing import check_suite, check_unit_tests, run_flow
from jollyboat.warehouse import warehouse

import pytest

SUITES = sorted((PROJECT / "expectations").glob("*.json"))


@pytest.mark.parametrize("source", warehouse.variables().sources)
def test_a_source_has_a_staging_model(source):
    assert (PROJECT / f"dbt/models/staging/stg_{source}__events.sql").is_file()


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_a_suite_is_valid(suite):
    check_suite(suite)


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_a_suite_names_columns_of_its_table(suite, small_store):
    check_suite(suite, small_store)


def test_dbts_unit_tests_pass(small_store):
    check_unit_tests(small_store)


def test_the_data_flow_publishes_a_snapshot(small_store):
    """A copy would be built again, because views hold the paths of their files."""
    run_flow(small_store, "data")

    assert small_store.latest_snapshot.is_file()
