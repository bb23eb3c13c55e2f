"""An error of dbt is reported with the line of the model that the project owns."""

from pathlib import Path

import pytest

from jollyboat.store import Store
from jollyboat.warehouse import warehouse

LOG = """Failure in model stg_app__events (models/staging/stg_app__events.sql)
  Runtime Error in model stg_app__events (models/staging/stg_app__events.sql)
  Binder Error: Referenced column "no_such_column" not found in FROM clause!

  LINE 114: {}
                    ^
"""


@pytest.fixture
def dbt(tmp_path, monkeypatch) -> Path:
    """The project's dbt folder, with a model of three lines."""
    model = tmp_path / "dbt/models/staging/stg_app__events.sql"
    model.parent.mkdir(parents=True)
    model.write_text("select\n    no_such_column as page,\n    1 as one, 1 as one_more\n")
    monkeypatch.setattr(warehouse, "DBT", tmp_path / "dbt")
    return tmp_path / "dbt"


def report(folder: Path, quoted_line: str) -> str:
    store = Store(folder / "data")
    (store.dbt / "logs").mkdir(parents=True)
    (store.dbt / "logs/run.txt").write_text(LOG.format(quoted_line))
    return warehouse.dbt_error(store)


@pytest.mark.parametrize("quoted_line", ["        no_such_column as page,", "...such_column as..."])
def test_the_line_is_that_of_the_models_own_file(dbt, quoted_line):
    message = report(dbt.parent, quoted_line)

    assert "Fix line 2 of dbt/models/staging/stg_app__events.sql, then run `make data`" in message
    assert "no_such_column" in message


@pytest.mark.parametrize("quoted_line", ["    as", "    made_by_jinja as page,"])
def test_a_line_that_is_not_certain_is_not_named(dbt, quoted_line):
    assert "Fix the model named above" in report(dbt.parent, quoted_line)


def test_a_model_of_the_library_has_no_line_in_the_project(dbt):
    (dbt / "models/staging/stg_app__events.sql").unlink()

    assert "Fix the model named above" in report(dbt.parent, "no_such_column as page,")
