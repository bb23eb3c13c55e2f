"""Every column of a published table has a description, in the project and in a question that is added to it."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from jollyboat.scaffold import PRESETS, Question, add_question
from jollyboat.store import LIBRARY, PROJECT, Store, UserError
from jollyboat.warehouse import warehouse
from jollyboat.warehouse.table_docs import describe_columns, find_undescribed

REFUNDED = Question(
    "order_id", "event_type = 'purchase'", "event_type = 'refund'", False, 7, history="session_id"
)


def read(store: Store) -> tuple[dict, dict[str, list[str]]]:
    """dbt's last manifest, and the columns of each table and view."""
    manifest = json.loads((store.dbt / "target/manifest.json").read_text(encoding="utf-8"))
    with warehouse.connect(store) as connection:
        rows = connection.sql(
            "select table_name, list(column_name) from duckdb_columns() where not internal group by all"
        )
        return manifest, dict(rows.fetchall())


def undescribed(manifest: dict, columns: dict[str, list[str]]) -> list[str]:
    return list(find_undescribed(describe_columns(manifest, columns), columns))


def published(manifest: dict) -> set[str]:
    metas = {node["name"]: node["config"].get("meta", {}) for node in manifest["nodes"].values()}
    return {name for name, meta in metas.items() if {"published_by", "published_as"} & set(meta)}


def test_every_column_of_a_published_table_is_described(built):
    manifest, columns = read(built)

    assert published(manifest) <= set(columns)
    assert sum(len(columns[name]) for name in published(manifest)) > 200
    assert [] == undescribed(manifest, columns)


def test_a_column_that_nobody_describes_is_named_in_each_table_that_has_it(built):
    manifest, columns = read(built)
    changed = copy.deepcopy(manifest)
    changed["nodes"]["model.jollyboat.sessions"]["columns"]["is_bot"]["description"] = ""
    del changed["nodes"]["model.project.features_at_point"]["columns"]["search_count"]
    del changed["nodes"]["model.jollyboat.events"]["columns"]["price"]

    names = {
        "sessions.is_bot",
        "session_features.search_count",
        "events.price",
        "events_at_point.price",
    }
    assert names == set(undescribed(changed, columns))


def test_a_table_is_described_by_another_only_where_it_has_the_column_and_no_words_of_its_own(
    built,
):
    manifest, columns = read(built)

    nodes = describe_columns(manifest, columns)["nodes"]
    at_point = nodes["model.jollyboat.events_at_point"]["columns"]
    staged = nodes["model.project.stg_web__events"]["columns"]
    events = nodes["model.jollyboat.events"]["columns"]
    assert set(columns["events_at_point"]) == set(at_point)
    assert (
        events["price"]["description"]
        == at_point["price"]["description"]
        == staged["price"]["description"]
    )
    assert events["session_id"]["description"] != staged["session_id"]["description"]


def test_the_overview_is_the_librarys_until_the_project_has_its_own(built):
    manifest, columns = read(built)
    first = manifest["docs"]["doc.jollyboat.__overview__"]
    own = {"doc.project.__overview__": first | {"package_name": "project"}}

    kept = describe_columns(manifest, columns)["docs"]
    replaced = describe_columns(manifest | {"docs": own | manifest["docs"]}, columns)["docs"]
    assert "session_features" in kept["doc.jollyboat.__overview__"]["block_contents"]
    assert ["doc.dbt.__overview__", *own] == sorted(key for key in replaced if "overview" in key)


def test_a_description_by_a_model_that_does_not_exist_is_refused(built):
    manifest, columns = read(built)
    changed = copy.deepcopy(manifest)
    changed["nodes"]["model.jollyboat.events_at_point"]["config"]["meta"]["described_by"] = "evnts"

    with pytest.raises(
        UserError, match=r"events_at_point: described_by .* 'evnts', which is no model"
    ):
        describe_columns(changed, columns)


def test_every_column_of_a_question_that_is_added_is_described(copied, tmp_path):
    project = tmp_path / "shop"
    shutil.copytree(PROJECT / "dbt", project / "dbt", ignore=shutil.ignore_patterns("dbt_packages"))
    shutil.copy(PROJECT / "project.toml", project)
    (project / "dbt/dbt_packages").mkdir()
    (project / "dbt/dbt_packages/jollyboat").symlink_to(LIBRARY / "dbt")
    for name, question in {**PRESETS, "refunded": REFUNDED}.items():
        add_question(name, question, project, copied)

    keep_one_row_in_hundred(copied)
    build(copied, project / "dbt", "path:models/questions")

    manifest, columns = read(copied)
    assert {"churn_features", "refunded_points", "next_product_points"} <= published(manifest)
    assert published(manifest) <= set(columns)
    assert [] == undescribed(manifest, columns)
    manifest = describe_columns(manifest, columns)
    described = manifest["nodes"]["model.project.next_product_pairs_at_point"]["columns"]
    assert set(columns["next_product_pairs_at_point"]) == set(described)


def keep_one_row_in_hundred(store: Store) -> None:
    with duckdb.connect(str(store.warehouse)) as connection:
        for table in ("events", "sessions"):
            connection.sql(f"delete from {table} where hash(session_id) % 100 > 0")


def build(store: Store, dbt: Path, selection: str) -> None:
    command = [sys.executable, "-m", "dbt.cli.main", "run", "--select", selection]
    settings = warehouse.environment(store) | {"DBT_PROJECT_DIR": str(dbt)}
    run = subprocess.run(command, cwd=PROJECT, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3_000:]
