"""The path at growing numbers of raw lines, and the data run on other engines. One table.

build/demo/.venv/bin/python bench/scale.py [1000000 10000000] [--shards 2] [--spark] [--data-only]

Each size is thirty simulated days of the demo's shop. `--shards` adds the data run by so many shards of
files and tenants, and `--spark` the same on Spark, which needs `requirements-spark.txt` and Java. Each
starts from the raw logs in a folder of its own. The rows of the snapshots are compared, too.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import measure as measuring
from measure import PROJECT, measure, simulate

LINES_PER_SESSION, DAYS = 8.8, 30
# The gate decides about a model, and this is about time: a refused one is deployed, too.
VERBS = {"train": (), "deploy": ("--force", "measuring the flows"), "score": (), "monitor": ()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", nargs="*", type=int, default=[1_000_000, 10_000_000])
    parser.add_argument("--shards", type=int, default=0)
    parser.add_argument("--spark", action="store_true")
    parser.add_argument("--data-only", action="store_true")
    options = parser.parse_args()
    print(f"{'lines':>11}  {'flow':<18}{'seconds':>9}{'CPU s':>9}{'peak GB':>9}")
    for lines in options.lines:
        with tempfile.TemporaryDirectory() as folder:
            measure_size(Path(folder), lines, options)


def measure_size(folder: Path, lines: int, options: argparse.Namespace) -> None:
    """Print a line for each flow, and for the data run of each engine."""
    store = folder / "store"
    lines = simulate(store, DAYS, round(lines / DAYS / LINES_PER_SESSION))["lines"]
    runs = [("data", "flows/data.py", "")]
    if options.shards:
        settings = f"\n[cluster]\ndata_shards = {options.shards}\n"
        runs.append((f"data, {options.shards} shards", "flows/data_shards.py", settings))
    if options.spark:
        runs.append(("data, Spark", "flows/data.py", '\n[build]\nengine = "spark"\n'))
    rows = {}
    for name, flow, settings in runs:
        own = store if name == "data" else folder / "other"
        if own != store:
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            (own / "raw").symlink_to(store / "raw")
            shutil.copy(store / ".salt", own)
        with project_with(folder, settings):
            describe(lines, name, measure(own, flow, "run"))
        rows[name] = rows_of(own)
    if len(rows) > 1:
        same = len({json.dumps(each, sort_keys=True) for each in rows.values()}) == 1
        print(f"{lines:>11,}  rows of all tables are {'equal' if same else f'not equal: {rows}'}")
    for verb, more in () if options.data_only else VERBS.items():
        describe(lines, verb, measure(store, f"flows/{verb}.py", "run", *more))


@contextmanager
def project_with(folder: Path, settings: str) -> Iterator[None]:
    """For the block, the measured project is a copy of the demo's with these settings more."""
    copy = folder / "project"
    shutil.rmtree(copy, ignore_errors=True)
    leave = shutil.ignore_patterns("data", ".venv", "dbt_packages")
    shutil.copytree(PROJECT, copy, ignore=leave)
    (copy / ".venv").symlink_to(PROJECT / ".venv")
    with (copy / "project.toml").open("a") as file:
        file.write(settings)
    measuring.PROJECT = copy
    try:
        yield
    finally:
        measuring.PROJECT = PROJECT


def rows_of(store: Path) -> dict[str, int]:
    """The number of rows of each table of the latest snapshot."""
    name = json.loads((store / "snapshots/latest.json").read_text())["snapshot"]
    manifest = json.loads((store / "snapshots" / name / "manifest.json").read_text())
    return {table: about["rows"] for table, about in manifest["tables"].items() if "rows" in about}


def describe(lines: int, name: str, used: dict) -> None:
    figures = f"{used['seconds']:>9.1f}{used['cpu']:>9.1f}{used['peak'] / 1024:>9.1f}"
    print(f"{lines:>11,}  {name:<18}{figures}", flush=True)


if __name__ == "__main__":
    main()
