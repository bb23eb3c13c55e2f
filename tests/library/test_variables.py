"""The vars of dbt_project.yml are typed: a wrong one is refused before dbt starts."""

import shutil

import pytest

from jollyboat.store import UserError
from jollyboat.warehouse import variables, warehouse

TEXT = (warehouse.DBT / "dbt_project.yml").read_text(encoding="utf-8")
WRONG = {  # what is replaced, by what, and the sentence
    "no list": (
        "sources: [web, orders]",
        "sources: web",
        'sources is "web"; it should be a valid list.',
    ),
    "an empty list": ("sources: [web, orders]", "sources: []", "sources is []; List should have"),
    "no name": (
        "sources: [web, orders]",
        "sources: [a b]",
        'sources[0] is "a b"; String should match',
    ),
    "a point of 0": (
        "[3, 4, 5, 6, 8, 10]",
        "[0]",
        "prediction_points[0] is 0; it should be greater",
    ),
    "a text": ("[3, 4, 5, 6, 8, 10]", "[three]", 'prediction_points[0] is "three"; it should be'),
    "a misspelled name": (
        "prediction_points:",
        "prediction_point:",
        "Did you mean prediction_point?",
    ),
    "an empty outcome": (
        "outcome: event_type = 'purchase'",
        'outcome: ""',
        'outcome is ""; String should',
    ),
    "a window function": (
        "outcome: event_type = 'purchase'",
        "outcome: count(*) over (partition by tenant_id, session_id) >= 3",
        "it should be a condition on one event, without a window function",
    ),
    "a subquery": (
        "outcome: event_type = 'purchase'",
        "outcome: session_id in (select session_id from events)",
        "without a window function (over) or a subquery (select)",
    ),
    "a long text": (
        "outcome: event_type = 'purchase'",
        "outcome: event_number >= 4 and row_number() over (order by occurred_at, event_id) >= 3",
        'over (order by occur..."; it should be',
    ),
    "no condition": (
        "outcome: event_type = 'purchase'",
        "outcome: event_type =",
        'outcome is "event_type ="; it should be a condition in SQL',
    ),
    "no points": ("[3, 4, 5, 6, 8, 10]", "[]", "prediction_points is []; List should have"),
    "a text for a number": (
        "future_tolerance_days: 2",
        "future_tolerance_days: two",
        'future_tolerance_days is "two"; it should be a valid integer',
    ),
    "no vars": ("\nvars:", "\nvariables:", "has no vars"),
    "syntax": ("sources: [web", "sources: [[web", "is not valid YAML"),
}


@pytest.mark.parametrize(("old", "new", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_variable_is_refused_with_file_key_value_and_what_would_do(old, new, sentence):
    assert old in TEXT

    with pytest.raises(UserError) as refused:
        variables.parse(TEXT.replace(old, new, 1))

    assert str(refused.value).startswith("dbt/dbt_project.yml")
    assert sentence in str(refused.value)


def test_a_syntax_error_names_the_line():
    with pytest.raises(UserError, match=r"line \d+"):
        variables.parse(TEXT.replace("sources: [web", "sources: [[web", 1))


def test_a_projects_own_variable_is_kept():
    actual = variables.parse(TEXT.replace("\nvars:", "\nvars:\n  my_threshold: 3", 1))

    assert actual.model_dump()["my_threshold"] == 3


def test_the_sources_are_read_from_the_file_and_a_wrong_one_stops_the_run(tmp_path, monkeypatch):
    shutil.copy(warehouse.DBT / "dbt_project.yml", tmp_path)
    monkeypatch.setattr(warehouse, "DBT", tmp_path)
    assert warehouse.source_names() == (warehouse.variables().sources, ["predictions", "labels"])

    (tmp_path / "dbt_project.yml").write_text(
        TEXT.replace("sources: [web, orders]", "sources: []", 1)
    )
    with pytest.raises(UserError, match="vars: sources"):
        warehouse.source_names()


@pytest.mark.parametrize(
    "outcome", ["event_type = 'WINDOW'", "page = 'SUBQUERY'", """query = '"class":"WINDOW"'"""]
)
def test_an_outcome_may_compare_with_any_word(outcome):
    text = TEXT.replace("outcome: event_type = 'purchase'", f"outcome: >-\n    {outcome}", 1)

    assert outcome == variables.parse(text).outcome


def test_a_source_without_a_staging_model_is_refused_with_the_nearest_one():
    warehouse._refuse_unmapped(["web", "orders"])

    with pytest.raises(UserError, match=r"sources .* has 'ordrs'.*Did you mean orders\?"):
        warehouse._refuse_unmapped(["web", "ordrs"])
