"""What a command takes: seconds on the clock, CPU seconds, peak memory. For benches of a project's verbs."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "build" / "demo"


def measure(store: Path, *command: str) -> dict:
    """What a command of the demo's project said and used; one that fails ends the bench with what it said."""
    began = time.perf_counter()
    environment = os.environ | {"STORE_ROOT": str(store)}
    with tempfile.TemporaryFile("w+") as result:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT, env=environment, stdout=result, stderr=result
        )
        _, status, used = os.wait4(process.pid, 0)
        result.seek(0)
        text = result.read()
    if status:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{text[-2_000:]}")
    peak = used.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {
        "said": text,
        "seconds": time.perf_counter() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": peak,
    }


def simulate(store: Path, days: int, sessions_per_day: int, *options: str) -> dict:
    """Simulate raw logs below a store, with more options of the command: `lines`, and what `measure` says."""
    where = ["--raw", f"{store}/raw", "--truth", f"{store}/truth.parquet"]
    size = ["--days", str(days), "--sessions-per-day", str(sessions_per_day)]
    used = measure(store, "-m", "jollyboat.cli", "simulate", *size, *where, *options)
    words = (word.replace(",", "") for word in used["said"].split())
    return used | {"lines": next(int(word) for word in words if word.isdigit())}
