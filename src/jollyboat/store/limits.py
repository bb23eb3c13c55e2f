"""The memory and cores of this process: those of its container, where that has limits."""

import os
from pathlib import Path

# The scheduler (argo, airflow or step-functions) of a flow that is compiled, or that runs there.
CLUSTER = "JOLLYBOAT_CLUSTER"
QUESTION = "JOLLYBOAT_QUESTION"  # of the flows that are compiled; unset for the first one
CGROUP = Path("/sys/fs/cgroup")
UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes a number near 2^63 where there is no limit


def container_memory(cgroup: Path = CGROUP) -> int | None:
    """The bytes that the container may use; None without a container or a limit."""
    text = _read(cgroup / "memory.max") or _read(cgroup / "memory" / "memory.limit_in_bytes")
    return int(text) if text.isdigit() and int(text) < UNLIMITED_BYTES else None


def core_count(cgroup: Path = CGROUP) -> int:
    """The cores of the machine, or as many as the container may use at a time; at least one."""
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    quota = quota or _read(cgroup / "cpu" / "cpu.cfs_quota_us")
    period = period or _read(cgroup / "cpu" / "cpu.cfs_period_us")
    cores = os.cpu_count() or 1
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
