"""The checks for a project's own tests pass on what is right and name what is wrong."""

import json

import numpy as np
import pytest

from jollyboat.store import UserError
from jollyboat.testing import check_candidate, check_suite
from jollyboat.training.estimators import read_candidates

SUITE = {
    "name": "events",
    "meta": {"key": ["event_id"]},
    "expectations": [
        {
            "type": "expect_column_values_to_not_be_null",
            "kwargs": {"column": "event_type"},
            "severity": "critical",
            "description": "every event has a type",
        }
    ],
}


@pytest.fixture
def write(tmp_path):
    def write(name="events", **changes):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(SUITE | changes))
        return path

    return write


def changed(**changes):
    return [SUITE["expectations"][0] | changes]


def test_a_suite_that_is_right_passes(write):
    check_suite(write())


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("other", {}, "needs the name other"),
        ("events", {"meta": {}}, "meta: key"),
        ("events", {"expectations": changed(type="expect_nothing")}, "is not a suite: .*nothing"),
        ("events", {"expectations": changed(severity=None)}, r"severity|a suite"),
        ("events", {"expectations": changed(description="")}, "needs a description"),
    ],
)
def test_a_suite_that_is_wrong_is_named(write, name, changes, words):
    with pytest.raises(AssertionError, match=rf"{name}\.json.*{words}"):
        check_suite(write(name, **changes))


def test_text_that_is_no_json_is_named(tmp_path):
    (tmp_path / "events.json").write_text("{")

    with pytest.raises(AssertionError, match=r"events\.json is not a suite"):
        check_suite(tmp_path / "events.json")


def test_a_candidate_that_is_right_passes():
    check_candidate("logistic")


def test_a_candidate_that_is_missing_is_named_with_those_that_exist():
    with pytest.raises(UserError, match="baseline, logistic, xgboost"):
        check_candidate("forest")


def test_a_probability_that_is_no_share_is_named(monkeypatch):
    class Doubled:
        def predict_proba(self, rows):
            return np.full((len(rows), 2), 2.0)

    def doubled(*inputs):
        return Doubled()

    doubled.__module__ = "candidates"
    monkeypatch.setattr(read_candidates(), "doubled", doubled, raising=False)

    with pytest.raises(AssertionError, match="The candidate doubled predicts"):
        check_candidate("doubled")
