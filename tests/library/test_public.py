"""The guide `what-is-public` lists what exists, and all that a new project's files use."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from jollyboat.cli.main import GROUPS
from jollyboat.store import LIBRARY, PROJECT

PAGE = (LIBRARY / "how_to/what-is-public.md").read_text(encoding="utf-8")


def listed(heading: str) -> set[str]:
    """The names in the text block below this heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2]
    block = re.search(r"```text\n(.*?)```", section, re.DOTALL)[1]
    return set(re.findall(r"[\w.-]+", block))


def imported_modules(file: Path) -> set[str]:
    """The modules of the library that this file imports, or imports names from."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jollyboat"):
            for name in node.names:
                path = LIBRARY.parent / (node.module + "." + name.name).replace(".", "/")
                is_module = path.with_suffix(".py").is_file()
                modules.add(f"{node.module}.{name.name}" if is_module else node.module)
    return modules


def test_the_page_lists_all_commands():
    names = {command.name for commands in GROUPS.values() for command in commands}

    assert listed("Commands") - {"jollyboat"} == names


def test_the_page_lists_all_tables_for_users_with_a_description():
    marts = {path.stem for path in (LIBRARY / "dbt/models/marts").glob("*.sql")}
    models = yaml.safe_load((LIBRARY / "dbt/models/models.yml").read_text())["models"]

    assert listed("Tables") == marts
    assert marts <= {model["name"] for model in models if model["description"]}


def test_the_page_lists_every_module_that_a_new_project_imports():
    files = [
        file for room in ("flows", "ml", "tests", "docs") for file in (PROJECT / room).rglob("*.py")
    ]

    used = set().union(*(imported_modules(file) for file in files))

    assert used <= listed("Python")


@pytest.mark.parametrize("name", sorted(listed("Python")))
def test_a_listed_module_exists(name):
    assert import_module(name).__doc__


def test_each_guide_of_the_page_exists():
    guides = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"\| ([^|]+) \|\n", PAGE))))
    existing = {
        path.stem
        for folder in (LIBRARY / "how_to", PROJECT / "docs")
        for path in folder.glob("*.md")
    }

    assert guides - existing == set()
    assert len(guides) == 12
