"""The site's reference is made from the code, and leaves nothing out."""

import pytest
import reference

import demo
from jollyboat.cli.main import GROUPS


def test_each_setting_of_a_new_project_has_a_meaning():
    page = reference.settings_page()
    text = (demo.HERE / demo.TEMPLATE / "project.toml").read_text()
    tables = [line[1 : line.index("]")] for line in text.splitlines() if line.startswith("[")]

    missing = {table for table in tables if f"## `[{table}]`" not in page}

    assert missing == {"questions.purchase_intent", "baseline", "xgboost"}  # tables by name
    assert (
        "| `champion_margin` | number, at least 0, at most 1 | `0.01` | Average precision" in page
    )
    assert "| `remote` | text |  | `s3://bucket/prefix`" in page


def test_a_setting_without_a_comment_or_docstring_fails_the_page(monkeypatch):
    monkeypatch.setattr(reference, "_comments", lambda text: {})

    with pytest.raises(ValueError, match="has no comment or docstring"):
        reference.settings_page()


def test_each_published_table_has_its_columns_and_their_meaning():
    page = reference.tables_page()

    assert "## `sessions`" in page
    assert "| `event_count` |" in page
    assert "{{" not in page
    assert all(not line.endswith("|  |") for line in page.splitlines())


def test_each_command_has_its_help():
    page = reference.commands_page()
    commands = [command.name for commands in GROUPS.values() for command in commands]

    assert all(f"## `jollyboat {name}`" in page for name in commands)
    assert "Example: jollyboat add source shop --like segment" in page


def test_each_public_module_can_be_imported():
    assert len(reference.modules()) > 20
    for name in reference.modules():
        __import__(name)
