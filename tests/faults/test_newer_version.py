"""A project goes to a newer version of the library and back; data, model and own files stay."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
from runs import copy_project, make, run, type_in

import demo

pytestmark = pytest.mark.faults
OWNED = {
    "README.md": "\nOurs.\n",
    "project.toml": "\n# Ours.\n",
    "flows/train.py": "\n# Ours.\n",
    "dbt/models/ours.sql": "select 1 as one\n",
}


@pytest.fixture(scope="module")
def newer(template, tmp_path_factory) -> Path:
    """A clone in version 0.2.0 with other SQL, one more requirement and a changelog entry."""
    clone = Path(shutil.copytree(template, tmp_path_factory.mktemp("newer") / "clone"))
    library = clone / "src/jollyboat"
    edit(library / "__init__.py", '__version__ = "0.1.0"', '__version__ = "0.2.0"')
    edit(
        library / "CHANGELOG.md",
        "## 0.1.0 (unreleased)",
        "## 0.2.0\n\n- A comment in SQL.\n- By hand: nothing.\n\n## 0.1.0 (unreleased)",
    )
    (library / "dbt/macros").mkdir(parents=True, exist_ok=True)
    (library / "dbt/macros/newer.sql").write_text("-- A comment.\n")
    edit(clone / "pyproject.toml", '    "packaging",\n', '    "packaging",\n    "humanize",\n')
    edit(clone / demo.TEMPLATE / "Makefile", "help: ##", "# Newer.\nhelp: ##")
    return clone


@pytest.fixture
def older(project, built, tmp_path) -> Path:
    """A project of version 0.1.0 with data, a champion and files that its owner has changed."""
    folder = Path(
        shutil.copytree(project, tmp_path / "older", ignore=shutil.ignore_patterns(*demo.LEFTOVERS))
    )
    shutil.copytree(built, folder / "data")
    for name, text in OWNED.items():
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
    result = make(folder, "setup")
    assert result.returncode == 0, result.stdout
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def contents(project: Path) -> dict[str, bytes]:
    """Every file of the project but those of its data and its environment."""
    paths = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    return {
        str(path): (project / path).read_bytes()
        for path in paths
        if not demo.LEFTOVERS & set(path.parts)
    }


def read_versions(project: Path) -> set[str]:
    return set(
        re.findall(r"^[\w.-]+==\S+", (project / "requirements.txt").read_text(), re.MULTILINE)
    )


def test_a_project_goes_to_a_newer_version_and_back_with_its_data_and_its_champion(
    older, newer, tmp_path
):
    before, versions = contents(older), read_versions(older)
    (old_wheel,) = (older / "vendor").glob("*.whl")
    shutil.copy(old_wheel, tmp_path)

    upgraded = make(older, "upgrade", f"FROM={newer}")
    answer = run(older, older / "data", "-m", "jollyboat.cli", "ask")
    pipeline = make(older, "pipeline")

    assert upgraded.returncode == 0, upgraded.stdout
    (wheel,) = (older / "vendor").glob("*.whl")
    assert wheel.name.startswith("jollyboat-0.2.0+")
    changed = {
        name
        for name in {*before, *contents(older)}
        if before.get(name) != contents(older).get(name)
    }
    assert changed == {
        "requirements.txt",
        "vendor/jollyboat.txt",
        *(f"vendor/{each.name}" for each in (old_wheel, wheel)),
    }
    assert {name.partition("==")[0] for name in read_versions(older) ^ versions} == {"humanize"}
    for sentence in (
        f"jollyboat is now {wheel.name.split('-')[1]}; it was {old_wheel.name.split('-')[1]}.",
        "New in 0.2.0: A comment in SQL.",
        "rebuilds the tables: the library's SQL changed (newer.sql)",
        "By hand: nothing.",
    ):
        assert sentence in upgraded.stdout
    assert "" not in upgraded.stdout.splitlines()
    (version,) = re.findall(
        r"^The model (\w+) of \w+ answers its sample as before\.$", upgraded.stdout, re.MULTILINE
    )
    assert answer.returncode == 0, answer.stdout
    assert version in answer.stdout
    assert pipeline.returncode == 0, pipeline.stdout

    back = make(older, "upgrade", f"FROM={tmp_path}", "TO=0.1.0")

    assert back.returncode == 0, back.stdout
    assert "No longer there, from 0.2.0: A comment in SQL." in back.stdout
    assert contents(older) | {"requirements.txt": b""} == before | {"requirements.txt": b""}


def test_an_upgrade_whose_requirements_cannot_be_met_leaves_the_project_as_it_was(
    project, newer, tmp_path
):
    impossible = Path(shutil.copytree(newer, tmp_path / "impossible"))
    edit(impossible / "pyproject.toml", '"humanize"', '"humanize>9999"')
    wheel = runpy.run_path(str(impossible / "hooks/post_gen_project.py"))["build_wheel"](
        impossible, tmp_path
    )
    copy = copy_project(project, tmp_path / "copy")
    before = contents(copy)

    result = make(copy, "upgrade", f"FROM={wheel}")

    assert result.returncode == 2
    assert "requirements.txt was not written" in result.stdout
    assert "humanize" in result.stdout
    assert contents(copy) == before
    assert make(copy, "setup").stdout == ".venv is ready\n"


def test_pins_are_written_again_without_an_address_and_keep_the_library_apart(project, tmp_path):
    copy = copy_project(project, tmp_path / "copy")

    result = type_in(copy, ".venv/bin/jollyboat pins")

    assert result.returncode == 0, result.stdout
    text = (copy / "requirements.txt").read_text()
    assert text.startswith("-r vendor/jollyboat.txt\n")
    assert not re.search("^jollyboat==|https?://|--find-links|--index", text, re.MULTILINE)
    assert {"metaflow", "pytest"} <= {version.partition("==")[0] for version in read_versions(copy)}
    assert text.count("==") < text.count("--hash=sha256:")
