"""How good and how fast: the champion against the true propensity, and training against a bare script, in one run.

build/demo/.venv/bin/python bench/model.py                     three seeds of a million events
build/demo/.venv/bin/python bench/model.py 800 --seeds 7       sessions a day over thirty days, one seed
build/demo/.venv/bin/python bench/model.py --logs ../shared/data   the two real logs, too
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "build" / "demo"
TEMPLATE = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sessions_per_day", type=int, nargs="?", default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument(
        "--rows",
        type=int,
        nargs="*",
        default=[10_000, 100_000, 1_000_000],
        help="of the timing table",
    )
    parser.add_argument(
        "--logs", type=Path, help="the folder of the real logs that tests/test_real_logs.py reads"
    )
    given = parser.parse_args()
    columns = "".join(f"{name:>22}" for name in ("baseline", "logistic", "xgboost"))
    print(f"{'seed':>4}{'train rows':>11}{columns}{'truth':>8}{'ratio':>7}{'ECE':>8}{'slope':>7}")
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            tell_quality(seed, Path(folder), given.sessions_per_day)
    if given.logs:
        figures = "".join(f"{name:>22}" for name in ("ROC AUC", "average precision"))
        print(f"\n{'log':<12}{'k':>2}{'holdout':>8}{'rate':>6}{'chosen':>10}{figures}  gate")
        for source, point in (("luma", 3), ("luma", 5), ("simple_shop", 5)):
            with tempfile.TemporaryDirectory() as folder:
                tell_real(source, point, given.logs.resolve(), Path(folder))
    print(f"\n{'rows':>10}{'bare s':>9}{'train s':>9}{'ratio':>7}{'peak MB':>9}  seconds by part")
    for rows in given.rows:
        print(run(Path.cwd(), __file__, "--time", str(rows)).strip().splitlines()[-1], flush=True)


def run(store: Path, *command: str, within: Path | None = None, may_fail: bool = False) -> str:
    """What a command of the project says over this store; one that fails ends the bench."""
    within = within or project()
    environment = os.environ | {"STORE_ROOT": str(store), "PYTHONPATH": str(within)}
    done = subprocess.run(
        [sys.executable, *command], cwd=within, env=environment, capture_output=True, text=True
    )
    if done.returncode and not may_fail:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def project() -> Path:
    """The demo's project where there is one, else the template's own folder, which is a project in place."""
    return PROJECT if PROJECT.exists() else TEMPLATE


def tell_quality(seed: int, store: Path, sessions_per_day: int) -> None:
    """A line on simulated logs: average precision of each candidate and of the truth at the same points."""
    import duckdb
    from sklearn.metrics import average_precision_score

    sys.path[:0] = [str(project())]
    from jollyboat.snapshots import snapshot
    from jollyboat.store import Store

    where = ["--raw", f"{store}/raw", "--truth", f"{store}/truth.parquet", "--seed", str(seed)]
    run(
        store,
        "-m",
        "jollyboat.cli",
        "simulate",
        "--days",
        "30",
        "--sessions-per-day",
        str(sessions_per_day),
        *where,
    )
    for flow in ("data", "train"):
        run(store, f"flows/{flow}.py", "run")
    folder = latest(store)
    metrics = json.loads((folder / "metrics.json").read_text())
    truth = duckdb.sql(
        "with points as (select tenant_id, entity_id, max_by(event_id, event_number) as event_id "
        f"from {snapshot.open_latest(Store(store)).scan('events_at_point')} group by all) "
        f"select label, probability from read_parquet('{folder}/holdout.parquet') "
        "inner join points using (tenant_id, entity_id) "
        f"inner join read_parquet('{store}/truth.parquet') using (event_id)"
    ).df()
    best = average_precision_score(truth["label"], truth["probability"])
    figures = [one["holdout"]["average_precision"] for one in metrics["candidates"].values()]
    report = "".join(f"{span(each):>22}" for each in figures)
    chosen = metrics["candidates"][metrics["chosen"]]["holdout"]
    rows = metrics["split"]["train"]["rows"]
    ratio = chosen["average_precision"]["value"] / best
    error, slope = chosen["calibration_error"]["value"], chosen["calibration_slope"]["value"]
    print(
        f"{seed:>4}{rows:>11,}{report}{best:>8.3f}{ratio:>7.3f}{error:>8.4f}{slope:>7.2f}",
        flush=True,
    )


def tell_real(source: str, point: int, logs: Path, folder: Path) -> None:
    """A line on real logs, the last 30 % of the sessions held out: what validation chose, and what the gate refuses."""
    tests = TEMPLATE.parent / "tests"
    sys.path[:0] = [str(TEMPLATE.parent), str(tests), str(tests / "project")]
    from test_real_logs import bring

    ignored = shutil.ignore_patterns("data", ".venv", ".metaflow", "__pycache__")
    own, store = Path(shutil.copytree(project(), folder / "own", ignore=ignored)), folder / "data"
    bring(own, source, point, logs)
    (own / "data").rename(store)
    settings = own / "project.toml"
    text = (
        settings.read_text()
        .replace("train = 0.6 ", "train = 0.55 ")
        .replace("validation = 0.2", "validation = 0.15")
    )
    settings.write_text(text)
    for flow in ("data", "train", "deploy"):
        run(store, f"flows/{flow}.py", "run", within=own, may_fail=flow == "deploy")
    metrics = json.loads((latest(store) / "metrics.json").read_text())
    one, held = metrics["candidates"][metrics["chosen"]]["holdout"], metrics["split"]["holdout"]
    (decided,) = (store / "models/shared").glob("*-gate.json")
    failed = [
        check["name"]
        for check in json.loads(decided.read_text())["decision"]["checks"]
        if not check["passed"]
    ]
    report = "".join(f"{span(one[name]):>22}" for name in ("roc_auc", "average_precision"))
    about = f"{source:<12}{point:>2}{held['rows']:>8,}{held['label_rate']:>6.2f}{metrics['chosen']:>10}{report}"
    print(f"{about}  {', '.join(failed) or 'passed'}", flush=True)


def latest(store: Path) -> Path:
    """The folder of the latest run."""
    return store / "runs" / json.loads((store / "runs/latest.json").read_text())["run"]


def span(figure: dict) -> str:
    """A figure with its interval."""
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


def tell_time(rows: int) -> None:
    """A line on made-up rows: a bare script that fits and scores the same three, and training's own work."""
    import tomllib

    import numpy as np
    import pandas as pd

    sys.path[:0] = [str(project()), str(TEMPLATE.parent / "tests/library")]
    from ml_data import sessions

    from jollyboat.training import training
    from jollyboat.training.estimators import find_candidate, fit, refit

    settings = tomllib.loads((project() / "project.toml").read_text())
    settings["evaluate"]["segments"] = ["tenant_id", "channel", "day"]
    frame, rng = sessions(rows), np.random.default_rng(0)
    frame = frame.assign(**{f"noise_{place}": rng.normal(size=rows) for place in range(20)})
    frame["person_id"] = pd.Series(rng.integers(0, max(1, rows // 2), rows)).astype(str)
    names = settings["train"]["candidates"]
    split, schema = training.prepare(frame, settings)
    find_candidate("xgboost")  # imported before the clock starts
    began = time.perf_counter()
    for name in names:
        own = {"seed": 7, **settings.get(name, {})}
        first = fit(name, split.train, split.validation, schema, own)
        first.predict_proba(split.validation.features)
        refit(name, first, split.train, split.validation, own).predict_proba(split.holdout.features)
    bare = time.perf_counter() - began
    folder, parts = Path(tempfile.mkdtemp()), {}
    fitted = {}
    for name in names:
        began = time.perf_counter()
        fitted[name] = training.fit_candidate(name, split, schema, settings, folder / name)
        parts[name] = time.perf_counter() - began
    began = time.perf_counter()
    training.compare(split, schema, fitted, settings, folder)
    parts["compare"] = time.perf_counter() - began
    shutil.rmtree(folder)
    whole, peak = sum(parts.values()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    by_part = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    print(f"{rows:>10,}{bare:>9.1f}{whole:>9.1f}{whole / bare:>7.2f}{peak:>9.0f}  {by_part}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--time"]:
        tell_time(int(sys.argv[2]))
    else:
        main()
