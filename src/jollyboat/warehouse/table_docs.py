"""dbt's pages of every table and column, with the descriptions that tables share."""

import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jollyboat.store import PROJECT, Store, UserError, read_json
from jollyboat.warehouse.warehouse import environment, link_package

PUBLISHED = ("published_by", "published_as")
DESCRIBED_BY = "described_by"  # in a model's meta: the model that describes its other columns
OVERVIEW = "__overview__"

Columns = Mapping[str, Collection[str]]


def write_table_docs(store: Store) -> tuple[Path, list[str]]:
    """Write dbt's page of the built tables; returns it, and the columns that nobody describes.

    UserError where dbt fails, which has printed why.
    """
    link_package()
    command = [sys.executable, "-W", "ignore", "-m", "dbt.cli.main"]
    settings = environment(store) | {"DBT_TARGET_PATH": str(store.docs)}
    finished = subprocess.run([*command, "docs", "generate", "--static"], cwd=PROJECT, env=settings)
    if finished.returncode:
        raise UserError("dbt could not write its pages. Fix what it prints, then run this again.")
    page, file = store.docs / "static_index.html", store.docs / "manifest.json"
    catalog = read_json(store.docs / "catalog.json")["nodes"].values()
    columns = {node["metadata"]["name"]: list(node["columns"]) for node in catalog}
    text = file.read_text(encoding="utf-8")
    manifest = describe_columns(json.loads(text), columns)
    described = json.dumps(manifest)
    page.write_text(page.read_text(encoding="utf-8").replace(text, described), encoding="utf-8")
    file.write_text(described, encoding="utf-8")
    return page, list(find_undescribed(manifest, columns))


def describe_columns(manifest: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """dbt's manifest with the descriptions that a model takes from its meta's `described_by`.

    `columns` are the columns of each built model.
    The project's own overview replaces the library's.
    UserError where `described_by` names no model.
    """
    models = _models(manifest)
    nodes = dict(manifest["nodes"])
    for name, node in models.items():
        inherited = _inherit(models, name)
        kept = {
            column: inherited[column] for column in columns.get(name, ()) if column in inherited
        }
        nodes[node["unique_id"]] = {**node, "columns": {**node["columns"], **kept}}
    docs = manifest["docs"]
    owners = {each["package_name"] for each in docs.values() if each["name"] == OVERVIEW}
    if manifest["metadata"]["project_name"] in owners:
        docs = {key: each for key, each in docs.items() if key != f"doc.jollyboat.{OVERVIEW}"}
    return {**manifest, "nodes": nodes, "docs": docs}


def find_undescribed(manifest: Mapping[str, Any], columns: Columns) -> Iterator[str]:
    """The columns of published tables without a description, each as `table.column`."""
    for name, node in _models(manifest).items():
        if any(key in node["config"].get("meta", {}) for key in PUBLISHED):
            for column in columns.get(name, ()):
                if not node["columns"].get(column, {}).get("description"):
                    yield f"{name}.{column}"


def _models(manifest: Mapping[str, Any]) -> dict[str, dict]:
    nodes = manifest["nodes"].values()
    return {node["name"]: node for node in nodes if node["resource_type"] == "model"}


def _inherit(models: Mapping[str, dict], name: str) -> dict[str, dict]:
    """The described columns of a model and of those that describe it; the nearest comes first."""
    inherited: dict[str, dict] = {}
    path = [name]
    while True:
        node = models[path[-1]]
        described = {key: each for key, each in node["columns"].items() if each["description"]}
        inherited = described | inherited
        following = node["config"].get("meta", {}).get(DESCRIBED_BY)
        if following is None or following in path:
            return inherited
        if following not in models:
            raise UserError(
                f"{path[-1]}: {DESCRIBED_BY} in its meta names {following!r}, which is no model. "
                "Name a model, then run this again."
            )
        path.append(following)
