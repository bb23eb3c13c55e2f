"""A generated project has the library's wheel in vendor/ and installs nothing else of that name."""

import functools
import http.server
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import zipfile
from datetime import UTC, date, datetime
from email import message_from_bytes
from pathlib import Path

import pytest
import release
from packaging.requirements import Requirement
from runs import make

import demo

UV = Path(sys.executable).with_name("uv")
CRUFT = [sys.executable, "-m", "cruft"]
GIT = [
    "git",
    "-c",
    "user.name=a",
    "-c",
    "user.email=a@example.com",
    "-c",
    "protocol.file.allow=always",
]
PINNED = re.compile(r"--find-links \.\njollyboat==(\S+) --hash=sha256:([0-9a-f]{64})\n")


def build(repository: Path, folder: Path) -> Path:
    return runpy.run_path(str(repository / "hooks/post_gen_project.py"))["build_wheel"](
        repository, folder
    )


def generate(template: Path | str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Cookiecutter with default answers, typed in `folder`."""
    return call(
        [sys.executable, "-m", "cookiecutter", "--no-input", *options, str(template)], folder
    )


def call(command: list, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    home = {"HOME": str(folder), "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        command,
        cwd=folder,
        env=demo.environment() | home | environment,
        capture_output=True,
        text=True,
    )


def vendored(project: Path) -> bytes:
    """The bytes of the one wheel in vendor/, which must be the one that is pinned."""
    (wheel,) = (project / "vendor").glob("*.whl")
    version, digest = PINNED.fullmatch((project / "vendor/jollyboat.txt").read_text()).groups()
    sha256 = runpy.run_path(str(demo.HERE / "hooks/post_gen_project.py"))["sha256"]
    assert (wheel.name, digest) == (
        f"jollyboat-{version}-py3-none-any.whl",
        sha256(wheel.read_bytes()).hexdigest(),
    )
    return wheel.read_bytes()


@pytest.fixture(scope="session")
def wheel(template, tmp_path_factory) -> Path:
    return build(template, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def clone(template, tmp_path) -> Path:
    """The template as a repository of git with one commit."""
    folder = Path(shutil.copytree(template, tmp_path / "clone"))
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def fresh(project, tmp_path) -> Path:
    """A generated project that is not set up."""
    return Path(
        shutil.copytree(project, tmp_path / "fresh", ignore=shutil.ignore_patterns(*demo.LEFTOVERS))
    )


def test_the_same_source_gives_the_same_bytes_in_another_folder_at_another_time(
    template, wheel, tmp_path
):
    copy = Path(shutil.copytree(template, tmp_path / "elsewhere"))
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o700)

    again = build(copy, tmp_path)

    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_another_source_or_requirement_is_another_version(template, wheel, tmp_path):
    copy = Path(shutil.copytree(template, tmp_path / "elsewhere"))
    (copy / "src/jollyboat/added.sql").write_text("select 1\n")
    added = build(copy, tmp_path)
    (copy / "pyproject.toml").write_text(
        (copy / "pyproject.toml").read_text().replace("optuna", "optuna>4")
    )

    assert len({wheel.name, added.name, build(copy, tmp_path).name}) == 3


def test_setuptools_builds_a_wheel_of_the_same_members_and_requirements(template, wheel, tmp_path):
    copy = Path(shutil.copytree(template, tmp_path / "copy"))
    command = [
        UV,
        "build",
        "-q",
        "--wheel",
        "--offline",
        "--no-build-isolation",
        "--python",
        sys.executable,
    ]
    subprocess.run([*command, "--out-dir", tmp_path, copy], check=True)
    (other,) = tmp_path.glob("*.whl")

    def contents(wheel: Path) -> tuple[dict, set, set]:
        with zipfile.ZipFile(wheel) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        info = {
            name.rpartition("/")[2]: members.pop(name)
            for name in list(members)
            if ".dist-info/" in name
        }
        metadata = message_from_bytes(info["METADATA"])
        requirements = {str(Requirement(text)) for text in metadata.get_all("Requires-Dist")}
        fields = {(name, metadata[name]) for name in ("Name", "Summary")}
        python = set(metadata["Requires-Python"].split(","))
        scripts = set(info.get("entry_points.txt", b"").decode().split()) - {"[console_scripts]"}
        return members, requirements, fields | python | scripts

    assert contents(wheel) == contents(other)


def test_a_release_dates_the_changelog_and_is_the_wheel_that_a_project_then_has(
    template, around, tmp_path
):
    copy = Path(shutil.copytree(template, tmp_path / "copy"))

    released = release.build(copy, copy / "dist")

    (around / "out").mkdir(parents=True)
    assert generate(copy, around / "out").returncode == 0
    assert released.read_bytes() == vendored(around / "out/shop_intent")
    assert f"({datetime.now(UTC).date()})" in (copy / "src/jollyboat/CHANGELOG.md").read_text()
    assert "/dist/" in (demo.HERE / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("section", "reason"),
    [("## 0.9.0 (unreleased)\n\n- A.\n", "is 0.9.0"), ("## 1.0.0\n\n## 0.9.0\n", "is empty")],
)
def test_a_release_without_a_section_of_its_version_is_refused(section, reason):
    with pytest.raises(SystemExit, match=reason):
        release.date_section(f"# Changelog\n\n{section}", "1.0.0", date(2026, 1, 1))


def test_a_release_that_is_made_twice_keeps_its_date():
    changelog = "# Changelog\n\n## 1.0.0 (2026-01-01)\n\n- A.\n"

    assert release.date_section(changelog, "1.0.0", date(2026, 2, 2)) == changelog


def test_generating_over_a_project_replaces_its_wheel(template, ask, around, wheel):
    ask()
    vendor = around / "out/shop_intent/vendor"
    (vendor / wheel.name).rename(vendor / "jollyboat-0.0.1+00000000-py3-none-any.whl")

    again = generate(template, around / "out", "--overwrite-if-exists")

    assert again.returncode == 0, again.stderr
    assert vendored(vendor.parent) == wheel.read_bytes()


@pytest.mark.parametrize("lacks", ["source", "hooks"])
def test_a_project_without_its_wheel_says_so_before_anything_is_installed(
    template, around, tmp_path, lacks
):
    (around / "out").mkdir(parents=True)
    copy = Path(shutil.copytree(template, tmp_path / "copy"))
    if lacks == "source":
        shutil.rmtree(copy / "src")

    generated = generate(
        copy, around / "out", "--accept-hooks", "no" if lacks == "hooks" else "yes"
    )
    project = around / "out/shop_intent"
    setup = make(project, "setup")

    assert generated.returncode == 0, generated.stderr
    assert ("vendor/ has no wheel" in generated.stderr) == (lacks == "source")
    assert [path.name for path in (project / "vendor").iterdir()] == ["jollyboat.txt"]
    assert (project / "vendor/jollyboat.txt").read_text() == ""
    assert setup.returncode == 2
    assert setup.stdout.startswith("vendor/jollyboat.txt pins no version of the library. ")
    assert not (project / ".venv").exists()


@pytest.mark.faults
@pytest.mark.parametrize("source", ["relative", "git+file", "zip", "replay"])
def test_each_way_of_naming_the_template_brings_the_wheel(clone, wheel, tmp_path, source):
    folder = tmp_path / "out"
    folder.mkdir()
    named = {
        "relative": os.path.relpath(clone, folder),
        "git+file": f"git+{clone.as_uri()}",
        "replay": clone,
    }
    if source == "zip":
        archive = tmp_path / "repository.zip"
        subprocess.run(
            ["git", "archive", "-o", archive, "--prefix=repository-main/", "HEAD"],
            cwd=clone,
            check=True,
        )
        named["zip"] = archive
    if source == "replay":
        assert generate(clone, folder).returncode == 0
        shutil.rmtree(folder / "shop_intent")
        result = call([sys.executable, "-m", "cookiecutter", "--replay", str(clone)], folder)
    else:
        result = generate(named[source], folder)

    assert result.returncode == 0, result.stdout + result.stderr
    assert vendored(folder / "shop_intent") == wheel.read_bytes()


@pytest.mark.faults
def test_cruft_creates_a_project_with_the_wheel_and_an_update_replaces_it(clone, wheel, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    project = folder / "shop_intent"

    created = call(
        [*CRUFT, "create", "--no-input", "--output-dir", str(folder), clone.as_uri()], folder
    )
    assert created.returncode == 0, created.stdout + created.stderr
    assert vendored(project) == wheel.read_bytes()

    (project / "ml/candidates.py").write_text("# a team's own\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*GIT, *command], cwd=project, check=True)
    (clone / "src/jollyboat/added.py").write_text('"""Added."""\n')
    makefile = clone / demo.TEMPLATE / "Makefile"
    makefile.write_text(makefile.read_text() + "# from a newer template\n")
    for command in (["add", "."], ["commit", "-qm", "Second"]):
        subprocess.run([*GIT, *command], cwd=clone, check=True)
    updated = call([*CRUFT, "update", "--skip-apply-ask"], project)

    assert updated.returncode == 0, updated.stdout + updated.stderr
    assert vendored(project) == build(clone, tmp_path).read_bytes() != wheel.read_bytes()
    assert (project / "Makefile").read_text().endswith("# from a newer template\n")
    assert (project / "ml/candidates.py").read_text() == "# a team's own\n"


@pytest.mark.faults
@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_a_wheel_whose_bytes_are_not_those_pinned_is_not_installed(fresh, installer):
    (wheel,) = (fresh / "vendor").glob("*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.comment = b"as good a zip as before"
    # Nothing but the library, so that pip does not fetch 150 packages before it refuses one.
    (fresh / "requirements.txt").write_text("-r vendor/jollyboat.txt\n")

    result = make(fresh, "setup", f"INSTALLER={installer}")

    assert result.returncode == 2
    assert re.search("hash", result.stdout, re.IGNORECASE), result.stdout
    assert not list((fresh / ".venv").glob(".ready-*"))


@pytest.fixture
def index(fresh, tmp_path):
    """The address of an index on loopback that has the wheel, which is moved there from vendor/."""
    folder = tmp_path / "index"
    (folder / "jollyboat").mkdir(parents=True)
    (wheel,) = (fresh / "vendor").glob("*.whl")
    wheel.rename(folder / "jollyboat" / wheel.name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.faults
def test_set_up_takes_the_library_from_an_index_while_vendor_has_no_wheel(
    fresh, index, monkeypatch
):
    monkeypatch.setenv("UV_INDEX", index)

    result = make(fresh, "setup")

    assert result.returncode == 0, result.stdout
    imported = call(
        [".venv/bin/python", "-c", "import jollyboat; print(jollyboat.__file__)"], fresh
    )
    assert imported.stdout.startswith(str(fresh / ".venv")), imported.stderr


@pytest.mark.faults
@pytest.mark.parametrize("setting", ["UV_FIND_LINKS", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"])
def test_uv_and_pip_resolve_the_pin_from_a_folder_or_an_index(fresh, index, tmp_path, setting):
    where = index if setting.endswith("URL") else str(tmp_path / "index/jollyboat")
    subprocess.run([sys.executable, "-m", "venv", fresh / ".venv"], check=True)
    pip = [UV, "pip"] if setting.startswith("UV") else [".venv/bin/python", "-m", "pip"]

    result = call(
        [*pip, "install", "--no-deps", "--require-hashes", "-r", "vendor/jollyboat.txt"],
        fresh,
        **{setting: where},
    )

    assert result.returncode == 0, result.stderr
    assert list((fresh / ".venv").glob("lib/*/site-packages/jollyboat/py.typed"))
