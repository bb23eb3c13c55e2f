"""How often an experiment that is looked at daily is wrong, and how often it finds a lift, beside the t-test.

build/demo/.venv/bin/python bench/experiment.py        2,000 runs of 30 days with 2,000 visitors a day in each arm
"""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PROJECT))

from jollyboat.experiments.readout import sequence, t_test  # noqa: E402 (the path comes first)

RUNS, DAYS, VISITORS = 2_000, 30, 2_000
SETTINGS = tomllib.loads((PROJECT / "project.toml").read_text())["experiment"]


def measure(first: float, second: float, seed: int) -> dict:
    """The share of runs in which a difference was called at any of the daily looks, and at the last one alone."""
    rng = np.random.default_rng(seed)
    hits = np.stack(
        [rng.binomial(VISITORS, rate, (RUNS, DAYS)).cumsum(axis=1) for rate in (first, second)]
    )
    n = np.broadcast_to(VISITORS * np.arange(1, DAYS + 1), hits.shape)
    difference, half = sequence(n, hits, SETTINGS["alpha"], SETTINGS["expected_visitors"])
    called, naive = np.abs(difference) > half, t_test(n, hits) < SETTINGS["alpha"]
    holds = (np.abs(difference - (second - first)) <= half).all(axis=1)
    actual = {"rates": f"{first:.0%} and {second:.0%}", "daily looks": called.any(axis=1).mean()}
    actual |= {"t-test at each": naive.any(axis=1).mean(), "t-test at the end": naive[:, -1].mean()}
    days = np.where(called.any(axis=1), called.argmax(axis=1) + 1, np.inf)
    return actual | {"interval held": holds.mean(), "day called": float(np.median(days))}


def main() -> None:
    rows = [measure(0.08, 0.08, 0), measure(0.08, 0.09, 1)]
    print("".join(f"{name:>20}" for name in rows[0]))
    for row in rows:
        print(
            "".join(
                f"{value:>20.1%}" if isinstance(value, float) and value <= 1 else f"{value:>20}"
                for value in row.values()
            )
        )
        print(json.dumps({name: str(value) for name, value in row.items()}), file=sys.stderr)


if __name__ == "__main__":
    main()
