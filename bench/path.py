"""The whole path at growing sizes: seconds on the clock, CPU seconds and peak memory of each verb, in one run.

make bench                                                  in the demo's project, made first where there is none
build/demo/.venv/bin/python bench/path.py 100 800 4000      sessions a day, over thirty days
"""

import sys
import tempfile
from pathlib import Path

from measure import measure, simulate

# The gate decides about a model, and this is about time: a refused one is deployed, too.
VERBS = {"data": (), "train": (), "deploy": ("--force", "measuring the path"), "score": ()}


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [100, 800, 4000]
    print(
        f"{'sessions a day':>14} {'lines':>11}  {'verb':<9}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}"
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            measure_path(Path(folder), size)


def measure_path(folder: Path, size: int) -> None:
    """Print a line for each verb of the path over thirty simulated days."""
    simulated = simulate(folder, 30, size)
    lines = simulated["lines"]
    describe(size, lines, "simulate", simulated)
    for verb, options in VERBS.items():
        describe(size, lines, verb, measure(folder, f"flows/{verb}.py", "run", *options))
    describe(size, lines, "data again", measure(folder, "flows/data.py", "run"))


def describe(size: int, lines: int, verb: str, used: dict) -> None:
    figures = f"{used['seconds']:>7.1f}{used['cpu']:>9.1f}{used['peak']:>9.0f}"
    print(f"{size:>14,} {lines:>11,}  {verb:<11}{figures}", flush=True)


if __name__ == "__main__":
    main()
