"""What a command takes: seconds on the clock, CPU seconds, peak memory. For benches of a project's verbs."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "build" / "demo"


def measure(store: Path, *command: str) -> dict:
    """What a command of the demo's project said and used; one that fails ends the bench with what it said.

    `cpu` is in seconds and `peak` in MB, of the largest process. Both count Java's processes, for which
    nobody waits, as they were last seen.
    """
    began = time.perf_counter()
    environment = os.environ | {"STORE_ROOT": str(store)}
    with tempfile.TemporaryFile("w+") as result:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT, env=environment, stdout=result, stderr=result
        )
        with watched_java() as java:
            _, status, used = os.wait4(process.pid, 0)
        result.seek(0)
        text = result.read()
    if status:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{text[-2_000:]}")
    peak = used.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {
        "said": text,
        "seconds": time.perf_counter() - began,
        "cpu": used.ru_utime + used.ru_stime + sum(cpu for cpu, _ in java.values()),
        "peak": max([peak, *(peak for _, peak in java.values())]),
    }


@contextmanager
def watched_java() -> Iterator[dict[int, tuple[float, float]]]:
    """CPU seconds and peak MB of each Java process that runs during the block, on Linux."""
    seen, ended = {}, threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, ValueError):
                    if (folder / "comm").read_text().strip() == "java":
                        fields = (folder / "stat").read_text().rpartition(")")[2].split()
                        ticks = int(fields[11]) + int(fields[12])
                        status = (folder / "status").read_text().partition("VmHWM:")[2].split()
                        seen[int(folder.name)] = (
                            ticks / os.sysconf("SC_CLK_TCK"),
                            int(status[0]) / 1024,
                        )

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def simulate(store: Path, days: int, sessions_per_day: int, *options: str) -> dict:
    """Simulate raw logs below a store, with more options of the command: `lines`, and what `measure` says."""
    where = ["--raw", f"{store}/raw", "--truth", f"{store}/truth.parquet"]
    size = ["--days", str(days), "--sessions-per-day", str(sessions_per_day)]
    used = measure(store, "-m", "jollyboat.cli", "simulate", *size, *where, *options)
    words = (word.replace(",", "") for word in used["said"].split())
    return used | {"lines": next(int(word) for word in words if word.isdigit())}
