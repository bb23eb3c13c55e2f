"""The behaviour cases below ml/behaviour are well-formed."""

from jollyboat.gate.behaviour import read_cases
from jollyboat.store import PROJECT

import pytest

FILES = sorted((PROJECT / "ml" / "behaviour").glob("*.json"))
FIELDS = {"minimum": {"better", "worse"}, "invariance": {"change"}, "rises": {"change"}}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_case_has_the_fields_of_its_kind(file):
    cases = read_cases(file)

    assert [case["name"] for case in cases if not FIELDS[case["kind"]] <= set(case)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_each_case_has_a_name_of_its_own(file):
    names = [case["name"] for case in read_cases(file)]

    assert len(names) == len(set(names))
