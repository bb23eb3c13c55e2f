"""In a container, memory and threads follow its limits."""

from pathlib import Path

import duckdb
import pytest

from jollyboat.store import Store
from jollyboat.store.limits import container_memory, core_count
from jollyboat.warehouse import warehouse


def write_limits(folder: Path, files: dict[str, str]) -> Path:
    """A folder as Linux shows a container's control groups in."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


def test_a_containers_limits_are_read(tmp_path):
    write_limits(tmp_path, {"memory.max": "8192000000", "cpu.max": "100000 100000"})

    assert container_memory(tmp_path) == 8_192_000_000
    assert core_count(tmp_path) == 1


def test_the_limits_of_an_older_kernel_are_read(tmp_path):
    files = {"memory/memory.limit_in_bytes": "4000000000"}
    files |= {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}
    write_limits(tmp_path, files)

    assert container_memory(tmp_path) == 4_000_000_000
    assert core_count(tmp_path) == 1


def test_half_a_core_counts_as_one(tmp_path):
    assert core_count(write_limits(tmp_path, {"cpu.max": "50000 100000"})) == 1


@pytest.mark.parametrize("memory", ["max", "9223372036854771712"])
def test_without_a_limit_the_machine_counts(tmp_path, monkeypatch, memory):
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    write_limits(tmp_path, {"memory.max": memory, "cpu.max": "max 100000"})

    assert container_memory(tmp_path) is None
    assert core_count(tmp_path) == core_count(tmp_path / "nothing") == 6


def test_duckdb_and_dbt_take_a_share_of_the_containers_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(warehouse, "container_memory", lambda: 8_192_000_000)

    assert warehouse.memory_limit() == {"memory_limit": "4915MB"}
    assert warehouse.environment(Store(tmp_path))["DUCKDB_MEMORY_LIMIT"] == "4915MB"
    with duckdb.connect(config=warehouse.memory_limit()) as connection:
        (limit,) = connection.sql("select current_setting('memory_limit')").fetchone()
    assert limit == "4.5 GiB"


def test_outside_a_container_the_profile_says_how_much_memory(monkeypatch):
    monkeypatch.setattr(warehouse, "container_memory", lambda: None)

    assert warehouse.memory_limit() == {"memory_limit": "5GB"}


def test_the_variable_comes_before_the_container(monkeypatch):
    monkeypatch.setattr(warehouse, "container_memory", lambda: 8_192_000_000)
    monkeypatch.setenv("DUCKDB_MEMORY_LIMIT", "3GB")

    assert warehouse.memory_limit() == {"memory_limit": "3GB"}
