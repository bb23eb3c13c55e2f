"""Checks and a fixture for a project's own tests; pytest loads this module as a plugin.

The library is imported inside the functions: pytest loads plugins before a test or a conftest.py
can name the project (JOLLYBOAT_PROJECT).
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pandas as pd

    from jollyboat.store import Store

DAYS, SESSIONS_PER_DAY, SEED = 4, 100, 7
SIMULATED_SOURCES = {"web", "orders"}
COMPUTED = {"distributions": ["column_name", "distance", "before", "after"]}  # no built tables
SEVERITIES = ("critical", "warning", "info")


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> "Store":
    """A store with the tables of a few hundred simulated sessions. Copy it before you change it.

    It is built once for all processes of pytest-xdist. The test is skipped where the project does
    not read the simulated sources.
    """
    from jollyboat.store import Store
    from jollyboat.warehouse import warehouse

    missing = SIMULATED_SOURCES - set(warehouse.variables().sources)
    if missing:
        pytest.skip(
            f"small_store simulates the sources web and orders, but vars: sources in "
            f"dbt/dbt_project.yml has no {' and no '.join(sorted(missing))}."
        )
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    store, built = Store(folder / "small_store"), folder / "small_store.built"
    with (folder / "small_store.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            shutil.rmtree(store.root, ignore_errors=True)  # a build that failed
            _build(store)
            built.touch()
    return store


def check_candidate(name: str) -> None:
    """Fit this candidate twice on made-up sessions, as training does, then save, load and predict.

    Raises UserError where ml/candidates.py has no such candidate, and AssertionError where a
    probability is not between 0 and 1 or changes when the model is saved.
    """
    import tempfile

    import numpy as np

    from jollyboat.store import project_settings
    from jollyboat.training import estimators, persistence
    from jollyboat.training.schema import FeatureSchema
    from jollyboat.training.split import by_time

    settings = project_settings().model_dump(mode="json")
    own = {"seed": settings["train"]["seed"], **settings.get(name, {})}
    split = by_time(_made_up_sessions(), **settings["split"])
    schema = FeatureSchema.from_frame(split.train.features)
    first = estimators.fit(name, split.train, split.validation, schema, own)
    model = estimators.refit(name, first, split.train, split.validation, own)
    probability = model.predict_proba(split.holdout.features)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise AssertionError(f"The candidate {name} predicts {probability}, not shares of 1.")
    with tempfile.TemporaryDirectory() as folder:
        persistence.save(model, Path(folder))
        loaded = persistence.load(Path(folder)).predict_proba(split.holdout.features)
    if not np.array_equal(probability, loaded):
        raise AssertionError(f"The candidate {name} predicts other values after it is saved.")


def check_suite(path: Path, store: "Store | None" = None) -> None:
    """Check that this file of expectations/ is a suite that Great Expectations can run.

    With a store, its columns and queries are checked against the built table, too. Raises
    AssertionError with the file, the expectation and what is wrong.
    """
    content = _read_suite(path)
    if content["name"] != path.stem or not content.get("meta", {}).get("key"):
        raise AssertionError(f"{path.name} needs the name {path.stem} and the columns meta: key.")
    for expectation in content["expectations"]:
        if not expectation.get("description") or expectation.get("severity") not in SEVERITIES:
            raise AssertionError(
                f"{path.name}: {expectation['type']} needs a description and a severity "
                f"({', '.join(SEVERITIES)})."
            )
    if store:
        _check_columns(path.stem, content, store)


def check_unit_tests(store: "Store") -> None:
    """Run the dbt unit tests of the project's own models; AssertionError with what failed."""
    command = ["test", "--no-use-colors", "--select", "package:this,test_type:unit"]
    done = _run(store, "-m", "dbt.cli.main", *command)
    if done.returncode:
        raise AssertionError(f"A unit test below dbt/unit_tests fails.\n{done.stdout[-3000:]}")


def run_flow(store: "Store", name: str, *options: str) -> str:
    """Run this flow on the store and return what it printed; AssertionError where it fails."""
    done = _run(store, f"flows/{name}.py", "run", *options)
    if done.returncode:
        raise AssertionError(f"flows/{name}.py run fails.\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def _build(store: "Store") -> None:
    from datetime import date

    from jollyboat.simulate.simulate import simulate
    from jollyboat.warehouse import warehouse

    size = {"days": DAYS, "sessions_per_day": SESSIONS_PER_DAY}
    simulate(store.raw, None, seed=SEED, start=date(2026, 1, 1), **size)
    with warehouse.locked(store) as lock:
        landing = warehouse.land(store)
        warehouse.finish_dbt(store, warehouse.start_dbt(store, lock, landing))


def _run(store: "Store", *command: str) -> subprocess.CompletedProcess:
    from jollyboat.store import PROJECT
    from jollyboat.warehouse import warehouse

    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=warehouse.environment(store),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _read_suite(path: Path) -> dict[str, Any]:
    from jollyboat.audit.audit import load_gx

    gx = load_gx()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        gx.ExpectationSuite(**content | {"expectations": []})
        for expectation in content["expectations"]:  # a suite only logs what is wrong with one
            ExpectationConfiguration(**expectation).to_domain_obj()
    except (ValueError, TypeError, KeyError, gx.exceptions.GreatExpectationsError) as error:
        raise AssertionError(f"{path.name} is not a suite: {error}") from error
    return content


def _check_columns(table: str, content: dict[str, Any], store: "Store") -> None:
    import duckdb

    from jollyboat.warehouse import warehouse

    with warehouse.connect(store) as connection:
        try:
            columns = COMPUTED.get(table) or connection.table(table).columns
        except duckdb.CatalogException as error:
            raise AssertionError(f"{table}.json: there is no table {table}.") from error
        _check_names(f"{table}.json: meta: key", content["meta"]["key"], columns)
        for expectation in content["expectations"]:
            place, kwargs = f"{table}.json: {expectation['description']!r}", expectation["kwargs"]
            _check_names(place, _named_columns(kwargs), columns)
            query = kwargs.get("unexpected_rows_query", "select 1").replace("{batch}", table)
            try:
                connection.execute(f"explain {query}")
            except duckdb.Error as error:
                raise AssertionError(f"{place} has a query that cannot run: {error}") from error


def _named_columns(kwargs: dict[str, Any]) -> list[str]:
    single = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    return single + kwargs.get("column_list", [])


def _check_names(place: str, names: list[str], columns: list[str]) -> None:
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise AssertionError(f"{place} names {', '.join(unknown)}, which the table does not have.")


def _made_up_sessions(rows: int = 600) -> "pd.DataFrame":
    """Sessions with a clear signal and with each kind of column that a model may meet."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(SEED)
    carts, device = random.poisson(0.7, rows), random.choice(["mobile", "desktop"], rows)
    chance = 1 / (1 + np.exp(2 - carts - (device == "desktop")))
    return pd.DataFrame(
        {
            "tenant_id": "acme",
            "entity_id": [f"s{number}" for number in range(rows)],
            "point_at": pd.date_range("2026-01-01", periods=rows, freq="10min"),
            "status": "train",
            "label": random.random(rows) < chance,
            "cart_add_count": carts,
            "seconds_so_far": random.lognormal(4, 1, rows),
            "rate": np.where(random.random(rows) < 0.4, np.nan, random.random(rows)),
            "device": np.where(random.random(rows) < 0.1, None, device),
            "constant": 1,
            "never_known": np.nan,
        }
    )
