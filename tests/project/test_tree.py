"""A generated project is the template folder, file by file, with the answers in two of them."""

import re
import stat
import subprocess
from pathlib import Path

import yaml

import demo

RENDERED = {Path("README.md"), Path("project.toml")}


def below(folder: Path) -> set[Path]:
    """The files of a generated project but those in vendor/, which the hook writes."""
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if path.parts[0] != "vendor"}


def test_the_generated_tree_is_the_list_of_the_template_folders_files(ask, around):
    ask()

    expected = {
        path.relative_to(demo.TEMPLATE)
        for path in demo.template_files()
        if path.parts[0] == demo.TEMPLATE and path.parts[1] != "vendor"
    }
    assert below(around / "out/shop_intent") == expected


def test_answers_appear_in_two_files_and_every_other_one_is_copied_byte_for_byte(
    ask, around, template
):
    ask()

    for path in below(around / "out/shop_intent"):
        original, copy = template / demo.TEMPLATE / path, around / "out/shop_intent" / path
        assert (path in RENDERED) == (original.read_bytes() != copy.read_bytes()), path
        assert stat.S_IMODE(original.stat().st_mode) == stat.S_IMODE(copy.stat().st_mode), path


def test_no_braces_of_the_template_are_left_over(ask, around):
    ask(project_name="Another Name", description="Something else.", owner="Somebody")

    text = "".join(
        (around / "out/another_name" / path).read_text()
        for path in below(around / "out/another_name")
    )
    assert not re.search(r"{{\s*cookiecutter|\(cookiecutter\.", text)


def test_nothing_names_a_machines_folder_or_a_package_registry(template):
    actual = [
        (path.relative_to(template), line)
        for path in sorted(template.rglob("*"))
        if path.is_file()
        for line in path.read_text().splitlines()
        if re.search(
            r"(?<![\w.])/(home|root|Users|work)/\w|--(extra-)?index-url|https?://\S*/simple\b", line
        )
    ]
    assert actual == []


def test_the_template_folder_is_free_of_what_work_leaves_there():
    ignored = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--ignored", "--exclude-standard"],
        cwd=demo.HERE,
        capture_output=True,
        text=True,
    )
    assert ignored.stdout == ""


def test_a_commit_of_a_document_alone_runs_no_linter_of_sql():
    for folder in (demo.HERE, demo.HERE / demo.TEMPLATE):
        (repository,) = yaml.safe_load((folder / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repository["hooks"]:
            if "sqlfluff" in hook["entry"] or hook["entry"] == "make lint":
                assert re.search(hook["files"], "dbt/models/a.sql")
                assert not re.search(hook["files"], "README.md")
