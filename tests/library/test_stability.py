"""One population stability index serves the audit's comparison and the monitor's drift."""

import duckdb
import numpy as np
import pytest

from jollyboat.snapshots.distribution import compare
from jollyboat.snapshots.stability import stability_index


def test_the_index_is_siddiqi_s_sum_less_its_mean_by_chance():
    now, before = np.array([[300, 700]]), np.array([500, 500])

    a, b = np.array([300.5, 700.5]) / 1001, np.array([0.5, 0.5])
    by_chance = 1 / 1000 + 1 / 1000
    assert stability_index(now, before)[0] == pytest.approx(
        ((a - b) * np.log(a / b)).sum() - by_chance
    )


def test_equal_counts_have_index_0_and_an_empty_side_has_none():
    now = np.array([[50, 50], [0, 0]])

    index = stability_index(now, np.array([500, 500]))

    assert index[0] == 0
    assert np.isnan(index[1])


def test_the_comparison_of_two_tables_is_the_index_of_their_bins():
    with duckdb.connect() as connection:
        for table, share in (("before", 4), ("after", 2)):
            connection.execute(
                f"create table {table} as select range % {share} = 0 as is_new from range(1000)"
            )

        (column,) = compare(connection, "before", "after")

    expected = stability_index(np.array([[500, 500]]), np.array([250, 750]))[0]
    assert column["distance"] == pytest.approx(expected, abs=1e-4)
