"""A misspelled canonical column of a staging model is refused with its line, and no other column."""

import shutil
from pathlib import Path

import pytest
from runs import STAGING, read_guide

from jollyboat.audit.columns import check_columns
from jollyboat.store import LIBRARY, PROJECT, UserError

GUIDES = sorted((LIBRARY / "how_to").glob("logs-from-*.md"))


def check(tmp_path: Path, sql: str) -> None:
    folder = tmp_path / "dbt/models/staging"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stg_app__events.sql").write_text(sql)
    check_columns(tmp_path / "dbt", [])


@pytest.mark.parametrize("name", ["anonymos_id", "anonymousid", '"Anonymous_Ids"'])
def test_a_misspelled_column_is_refused_with_its_line(tmp_path, name):
    sql = (
        f"select\n    {{# two\nlines #}}\n    record ->> 'anonymos_id' as {name},\n    1 as user_id"
    )

    with pytest.raises(UserError) as refused:
        check(tmp_path, sql)

    sentence = f"models/staging/stg_app__events.sql, line 4: the column {name.strip(chr(34))} is"
    assert sentence in str(refused.value)
    assert "did you mean anonymous_id? Other columns belong into payload" in str(refused.value)


@pytest.mark.parametrize(
    "sql",
    [
        "select a as anonymos_id, b as anonymous_id",
        "with named as (select a as anonymos_id) select lower(anonymos_id) as user_id from named",
        "{% for name in names %} a as {{ name }}, {% endfor %} b as anonymos_id",
        "select cast(a as varchar) as mood -- as anonymos_id",
        "with sessions as (select 1 as part), events as (select * from sessions) select 2 as rest",
    ],
)
def test_a_column_for_the_models_own_use_is_not_refused(tmp_path, sql):
    assert check(tmp_path, sql) is None


def test_the_models_that_ship_are_not_refused(tmp_path):
    shutil.copytree(PROJECT / "dbt/models", tmp_path / "dbt/models")
    shutil.copytree(STAGING, tmp_path / "dbt/models/real")

    assert check_columns(tmp_path / "dbt", []) is None


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_model_of_a_guide_is_not_refused(tmp_path, guide):
    models = [step.text for step in read_guide(guide) if step.kind == "sql"]

    assert models and [check(tmp_path, sql) for sql in models] == [None] * len(models)
