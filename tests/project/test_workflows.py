"""Workflows follow GitHub's schema and call what the Makefile has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import test_makefile

import demo

WORKFLOWS = sorted(
    [
        *demo.HERE.glob(".github/workflows/*.yml"),
        *(demo.HERE / demo.TEMPLATE).glob(".github/workflows/*.yml"),
    ]
)
FOLDERS = [demo.HERE, demo.HERE / demo.TEMPLATE]


def check(*files: Path) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
    ]
    return subprocess.run([*command, *map(str, files)], capture_output=True, text=True)


def test_every_workflow_follows_the_schema():
    result = check(*WORKFLOWS)

    assert len(WORKFLOWS) == 3
    assert result.returncode == 0, result.stdout


def test_a_workflow_without_jobs_is_refused(tmp_path):
    (tmp_path / "bad.yml").write_text("on: push\n")

    assert check(tmp_path / "bad.yml").returncode == 1


@pytest.mark.parametrize("folder", FOLDERS, ids=["template", "generated"])
def test_workflows_call_verbs_that_exist_and_need_no_secret(folder):
    text = "".join(path.read_text() for path in folder.glob(".github/workflows/*.yml"))

    called = set(re.findall(r"run: make ([a-z-]+)", text))
    assert called and called <= set(test_makefile.verbs(folder))
    assert "secrets." not in text
