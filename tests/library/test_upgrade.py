"""An upgrade says what differs between two versions, and a failed one changes nothing."""

import functools
import http.server
import re
import runpy
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

import demo
from jollyboat.store import UserError
from jollyboat.upgrade import changes, install, sources
from jollyboat.upgrade.requirements import find_unmet

OLD = """# Changelog

What users notice.

## 0.1.0

- A first thing,
  on two lines.
- A second thing.
"""
NEW = OLD.replace(
    "## 0.1.0", "## 0.2.0\n\n- A third thing.\n- By hand: rename `a` to `b`.\n\n## 0.1.0"
)


@pytest.fixture(scope="module")
def wheels(template, tmp_path_factory) -> Path:
    """A folder with a wheel of 0.1.0 and one of 0.2.0."""
    folder = tmp_path_factory.mktemp("wheels")
    clone = Path(shutil.copytree(template, folder / "clone"))
    build = runpy.run_path(str(clone / sources.HOOK))["build_wheel"]
    build(clone, folder / "jollyboat")
    (clone / "src/jollyboat/__init__.py").write_text('__version__ = "0.2.0"\n')
    build(clone, folder / "jollyboat")
    return folder


@pytest.fixture
def project(tmp_path) -> Path:
    """The parts of a project that an upgrade changes."""
    folder = tmp_path / "project"
    (folder / "vendor").mkdir(parents=True)
    (folder / "vendor/jollyboat-0.0.1+00000000-py3-none-any.whl").write_text("old")
    (folder / "vendor/jollyboat.txt").write_text(
        "--find-links .\njollyboat==0.0.1+00000000 --hash=sha256:0\n"
    )
    shutil.copy(demo.HERE / demo.TEMPLATE / "requirements.txt", folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_changelogs_entries_between_two_versions_are_listed_either_way():
    assert list(changes.describe_changelog(OLD, NEW)) == ["New in 0.2.0: A third thing."]
    assert list(changes.describe_changelog(OLD, OLD)) == []
    assert (
        next(changes.describe_changelog(NEW, OLD)) == "No longer there, from 0.2.0: A third thing."
    )
    assert "A first thing, on two lines." in changes.read_changelog(OLD)


def test_the_librarys_own_changelog_has_entries():
    assert changes.read_changelog((demo.HERE / "src" / sources.CHANGELOG).read_text())


@pytest.mark.parametrize(
    ("name", "is_rebuilt"),
    [
        ("dbt/models/marts/events.sql", True),
        ("dbt/unit_tests/events.yml", False),
        ("store/store.py", False),
    ],
)
def test_tables_are_rebuilt_if_sql_changed_that_shapes_rows(name, is_rebuilt):
    old, new = {f"jollyboat/{name}": b"1"}, {f"jollyboat/{name}": b"2"}

    (sentence,) = changes.describe_rebuild(old, new)

    assert ("rebuilds the tables" in sentence) == is_rebuilt


def test_work_by_hand_is_named_with_the_projects_file_that_replaces_a_changed_one(tmp_path):
    (tmp_path / "dbt/models").mkdir(parents=True)
    (tmp_path / "dbt/models/events.sql").write_text("select 1")
    (tmp_path / "dbt/models/sessions.sql").write_text("select 1")
    old = {sources.CHANGELOG: OLD.encode(), "jollyboat/dbt/models/marts/events.sql": b"1"}
    new = {sources.CHANGELOG: NEW.encode(), "jollyboat/dbt/models/marts/events.sql": b"2"}

    work = list(changes.describe_work(old, new, tmp_path))

    assert work[0] == "By hand: rename `a` to `b`."
    assert "dbt/models/events.sql" in work[1]
    assert len(work) == 3  # the third is to commit


def test_a_requirement_is_met_by_every_version_that_is_pinned_of_it():
    versions = {"great-expectations": {"1.24.1"}, "xgboost": {"3.1", "3.2"}}

    assert find_unmet(["great_expectations>=1.24,<2", "xgboost>=3.1"], versions) == []
    assert find_unmet(["great_expectations>2", "xgboost>3.1", "humanize"], versions) == [
        "great_expectations>2",
        "xgboost>3.1",
        "humanize",
    ]


@pytest.mark.parametrize(("version", "expected"), [(None, "0.2.0"), ("0.1.0", "0.1.0")])
def test_a_folder_of_wheels_gives_the_newest_or_the_version_asked_for(
    wheels, tmp_path, version, expected
):
    wheel = sources.fetch_wheel(str(wheels / "jollyboat"), version, tmp_path)

    assert wheel.name.startswith(f"jollyboat-{expected}+")
    assert wheel.read_bytes() == (wheels / "jollyboat" / wheel.name).read_bytes()


def test_an_index_gives_the_version_asked_for(wheels, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=wheels)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        wheel = sources.fetch_wheel(address, "0.1.0", tmp_path)
        with pytest.raises(UserError, match=r"has no wheel of jollyboat 9.0.0"):
            sources.fetch_wheel(address, "9.0.0", tmp_path)
        server.shutdown()

    assert wheel.read_bytes() == (wheels / "jollyboat" / wheel.name).read_bytes()


@pytest.mark.parametrize("source", ["", "nowhere"])
def test_a_place_without_a_version_is_refused_with_what_would_do(tmp_path, source):
    with pytest.raises(UserError, match="FROM="):
        sources.fetch_wheel(source, None, tmp_path)


def test_the_wheel_of_another_package_is_refused(tmp_path):
    wheel = tmp_path / "jollyboat-9.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("jollyboat/__init__.py", "")

    with pytest.raises(UserError, match="not a wheel of this library"):
        sources.read_wheel(wheel)


def test_a_wheel_of_another_version_than_the_one_asked_for_changes_nothing(wheels, project):
    (wheel,) = (wheels / "jollyboat").glob("jollyboat-0.2.0*.whl")
    before = contents(project)

    with pytest.raises(UserError, match=re.escape("0.2.0+") + ".*not 0.1.0"):
        install.upgrade(project, str(wheel), "0.1.0")
    assert contents(project) == before


def test_a_set_up_that_fails_leaves_the_project_as_it_was_and_sets_it_up_again(
    wheels, project, tmp_path, monkeypatch
):
    (wheel,) = (wheels / "jollyboat").glob("jollyboat-0.2.0*.whl")
    before, pins = contents(project), []

    def fail(project: Path) -> None:
        pins.append(install.read_pinned_version(project))
        raise UserError("no network")

    monkeypatch.setattr(install, "set_up", fail)
    with pytest.raises(UserError, match="no network"):
        install.install_wheel(project, wheel, tmp_path)

    assert contents(project) == before
    assert [pin[:5] for pin in pins] == ["0.2.0", "0.0.1"]


def test_an_upgrade_that_was_killed_is_finished_by_the_same_command_and_says_what_changed(
    wheels, project, tmp_path, monkeypatch
):
    old, new = sorted((wheels / "jollyboat").glob("jollyboat-0.*.whl"))
    for path in project.glob("vendor/*.whl"):
        path.unlink()
    shutil.copy(old, project / "vendor")
    monkeypatch.setattr(install, "set_up", lambda project: None)
    monkeypatch.setattr(install, "check_in_new_process", lambda project: [])
    monkeypatch.setattr(install, "find_unmet", lambda *_: [])
    monkeypatch.setattr(install, "read_installed", lambda: sources.read_wheel(new))
    shutil.copy(new, project / "vendor")
    install._write_pin(project / "vendor" / new.name)  # killed after it

    first, *_ = install.upgrade(project, str(new))
    again = install.upgrade(project, str(new))

    assert first.startswith("jollyboat is now 0.2.0+") and "; it was 0.1.0+" in first
    assert [path.name for path in project.glob("vendor/*.whl")] == [new.name]
    assert "nothing was changed" in again[0]


def test_a_project_that_runs_the_librarys_source_is_refused(project):
    (project / "vendor/jollyboat.txt").write_text("")

    with pytest.raises(UserError, match="pins no version"):
        install.upgrade(project, "anything")
