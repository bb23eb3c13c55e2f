"""A suite that names a removed feature is refused before the build."""

import json
import shutil
from pathlib import Path

import pytest

from jollyboat.audit.columns import check_columns
from jollyboat.store import PROJECT, UserError

SQL = "models/questions/purchase_intent/features_at_point.sql"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("dbt/models", "expectations"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    return tmp_path


def check(project: Path) -> None:
    check_columns(project / "dbt", [project / "expectations"])


def remove_feature(project: Path) -> None:
    path = project / "dbt" / SQL
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "seconds_so_far" not in line))


def test_the_suites_that_ship_name_columns_that_the_sql_makes(project):
    assert check(project) is None


def test_an_expectation_about_a_removed_feature_is_named_with_its_file(project):
    remove_feature(project)

    with pytest.raises(UserError) as refused:
        check(project)

    assert "expectations/session_features.json" in str(refused.value)
    assert "column seconds_so_far" in str(refused.value)
    assert f"dbt/{SQL}" in str(refused.value)


def test_a_feature_that_jinja_names_is_left_to_the_audit(project):
    remove_feature(project)
    path = project / "dbt" / SQL
    loop = "{% for name in ['seconds'] %} max(gap_seconds) as {{ name }}_so_far, {% endfor %}"
    path.write_text(path.read_text().replace("count(*) as event_count,", loop))

    assert check(project) is None


def test_a_model_that_is_missing_is_left_to_dbt(project):
    (project / "dbt" / SQL).unlink()

    assert check(project) is None


def test_a_column_in_a_list_of_an_expectation_is_checked_too(project):
    suite = project / "expectations/session_features.json"
    content = json.loads(suite.read_text())
    content["expectations"][0]["kwargs"]["column_list"].append("basket_size")
    suite.write_text(json.dumps(content))

    with pytest.raises(UserError, match="column basket_size"):
        check(project)
