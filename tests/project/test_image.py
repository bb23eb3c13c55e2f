"""The Dockerfile without Docker: what it copies is there, and its commands run in order in an empty folder."""

import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

import demo

SECRETS = (".env", "data", ".git", ".venv")


@pytest.fixture(scope="module")
def steps(template) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in their order, lines joined."""
    text = (template / demo.TEMPLATE / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [
        re.sub(r"\s+", " ", line)
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    ]
    return [tuple(line.split(" ", 1)) for line in lines]


@pytest.fixture
def app(project, tmp_path) -> Path:
    """What `COPY . .` puts into an empty folder of what a project's folder holds after work."""
    ours = shutil.ignore_patterns(*demo.LEFTOVERS)
    folder = Path(shutil.copytree(project, tmp_path / "project", ignore=ours))
    for name in SECRETS:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "secret").touch()
    ignored = [line for line in (folder / ".dockerignore").read_text().splitlines() if line]
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if any(
            fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"{pattern}/*")
            for pattern in ignored
        ):
            path.rmdir() if path.is_dir() else path.unlink()
    return Path(shutil.move(folder, tmp_path / "app"))


def test_packages_are_the_pinned_ones_and_the_process_is_not_root(steps, app):
    names = [name for name, _ in steps]
    after = steps[[number for number, name in enumerate(names) if name == "FROM"][-1] :]
    sources = [
        what.split()[0] for name, what in steps if name == "COPY" and not what.startswith("--from")
    ]
    user = [what for name, what in after if name == "USER"][-1]

    assert all((app / source).exists() for source in sources)
    assert list((app / "vendor").glob("jollyboat-*.whl"))
    assert any(
        "--require-hashes -r requirements.txt" in what for name, what in steps if name == "RUN"
    )
    assert f"useradd --uid 1000 --create-home {user}" in " ".join(
        what for name, what in after if name == "RUN"
    )
    assert [name for name, _ in after].index("USER") < [name for name, _ in after].index("CMD")
    assert not [name for name in SECRETS if (app / name).exists()]


def test_the_images_user_can_make_the_folders_of_metaflows_command_there(steps):
    """A step on a cluster begins with `mkdir -p $PWD/.logs` and `mkdir metaflow`."""
    after = steps[[number for number, (name, _) in enumerate(steps) if name == "FROM"][-1] :]
    last = dict(after)
    runs = " ".join(what for name, what in after if name == "RUN")

    owned = re.search(rf"chown {last['USER']} ([^&]+)", runs)[1].split()
    assert last["WORKDIR"] in owned
    assert "METAFLOW_SKIP_INSTALL_DEPENDENCIES=1" in last["ENV"]


def test_the_image_answers_its_own_health_check_and_has_the_flows(steps, app, project):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (check,) = [what.partition("CMD ")[2] for name, what in steps if name == "HEALTHCHECK"]
    (command,) = [json.loads(what) for name, what in steps if name == "CMD"]
    (report,) = [
        dict(each.split("=", 1) for each in what.split()) for name, what in steps if name == "ENV"
    ]
    report |= {"PORT": port, "HOST": "127.0.0.1", "PYTHONPATH": str(app)}
    environment = (
        os.environ
        | report
        | {"PATH": f"{project / '.venv/bin'}:{os.environ['PATH']}", "HOME": str(app)}
    )

    server = subprocess.Popen(command, cwd=app, env=environment)
    try:
        deadline = time.monotonic() + 60
        while (
            healthy := subprocess.run(
                check, shell=True, env=environment, capture_output=True
            ).returncode
        ) != 0:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        server.terminate()
        server.wait(20)
    flow = subprocess.run(
        ["python", "flows/data.py", "show"],
        cwd=app,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert healthy == 0
    assert flow.returncode == 0, flow.stderr


def test_the_devcontainer_stands_on_a_stage_of_the_dockerfile(steps, template):
    build = json.loads((template / demo.TEMPLATE / ".devcontainer/devcontainer.json").read_text())[
        "build"
    ]
    stages = [
        what.rpartition(" AS ")[2] for name, what in steps if name == "FROM" and " AS " in what
    ]

    assert build["target"] in stages
    assert (template / demo.TEMPLATE / ".devcontainer" / build["dockerfile"]).resolve().exists()
