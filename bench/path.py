"""The whole path at growing sizes: seconds on the clock, CPU seconds and peak memory of each verb, in one run.

make bench                                                  in the demo's project, made first where there is none
build/demo/.venv/bin/python bench/path.py 100 800 4000      sessions a day, over thirty days
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "build" / "demo"
VERBS = ("data", "train", "deploy", "score")


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [100, 800, 4000]
    print(f"{'sessions a day':>14} {'lines':>11}  {'verb':<9}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            measure_path(Path(folder), size)


def measure_path(folder: Path, size: int) -> None:
    """Print a line for each verb of the path over thirty simulated days."""
    where = ["--raw", f"{folder}/raw", "--truth", f"{folder}/truth.parquet"]
    simulated = measure(folder, "-m", "ml.simulate", "--days", "30", "--sessions-per-day", str(size), *where)
    lines = next(word for word in simulated["said"].split() if word.replace(",", "").isdigit())
    tell(size, lines, "simulate", simulated)
    for verb in VERBS:
        tell(size, lines, verb, measure(folder, f"flows/{verb}.py", "run"))
    tell(size, lines, "data again", measure(folder, "flows/data.py", "run"))


def measure(store: Path, *command: str) -> dict:
    """What a command said and used; one that fails ends the bench with what it said."""
    began = time.perf_counter()
    environment = os.environ | {"STORE_ROOT": str(store)}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, *command], cwd=PROJECT, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{text}")
    peak = used.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {"said": text, "seconds": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime, "peak": peak}


def tell(size: int, lines: str, verb: str, used: dict) -> None:
    print(
        f"{size:>14,} {lines:>11}  {verb:<11}{used['seconds']:>7.1f}{used['cpu']:>9.1f}{used['peak']:>9.0f}", flush=True
    )


if __name__ == "__main__":
    main()
