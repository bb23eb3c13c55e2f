"""Nothing connects to anything but loopback: flows and server work, and try nothing else."""

import shutil
import subprocess

import pytest
from runs import make, run
from test_server_load import IN_PROJECT

pytestmark = pytest.mark.faults
HAS_NAMESPACES = (
    shutil.which("unshare")
    and shutil.which("ip")
    and subprocess.run(["unshare", "-rn", "true"]).returncode == 0
)
# A network of one's own, with loopback alone, for what is no Python (DuckDB's extensions).
ALONE = (
    ("unshare", "-rn", "sh", "-c", 'ip link set lo up; exec "$@"', "sh") if HAS_NAMESPACES else ()
)


def test_the_whole_path_connects_to_nothing_but_loopback(project, monkeypatch, tmp_path):
    tries = tmp_path / "tries.txt"
    monkeypatch.setenv("PYTHONPATH", str(IN_PROJECT / "no_network"))
    monkeypatch.setenv("NETWORK_TRIES", str(tries))

    result = make(project, "smoke", before=ALONE)

    assert result.returncode == 0, result.stdout
    assert "probability" in result.stdout
    assert not tries.exists(), tries.read_text()


def test_a_connection_is_noticed(untouched, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(IN_PROJECT / "no_network"))
    monkeypatch.setenv("NETWORK_TRIES", str(tmp_path / "tries.txt"))

    result = run(
        untouched, tmp_path, "-c", "import socket; socket.create_connection(('192.0.2.1', 80))"
    )

    assert result.returncode == 1
    assert "192.0.2.1" in (tmp_path / "tries.txt").read_text()


def test_the_pinned_packages_have_no_known_hole(untouched):
    if not shutil.which("uvx"):
        pytest.skip("uvx, which runs pip-audit, is not on the path")
    command = [
        "uvx",
        "pip-audit",
        "--strict",
        "--require-hashes",
        "--disable-pip",
        "-r",
        "requirements.txt",
    ]

    result = subprocess.run(
        command, cwd=untouched, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    if result.returncode and "known vulnerabilit" not in result.stdout:
        pytest.skip(f"pip-audit could not ask: {result.stdout.strip().splitlines()[-1][:200]}")
    assert result.returncode == 0, result.stdout
