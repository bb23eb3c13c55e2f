"""The question churn against the true propensity of the simulated customers, seed by seed.

build/demo/.venv/bin/python bench/churn.py                 150 days of 800 sessions, seeds 7, 8 and 9
build/demo/.venv/bin/python bench/churn.py --seeds 7 --days 120
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "build" / "demo"
HORIZON = 14
# The last visit of each customer before each point of the holdout, and what the simulator drew then.
LAST_VISITS = """
select holdout.*, day as last_day, visit_chance, lapse_probability
from read_parquet('{run}/holdout.parquet') as holdout
asof join (select *, day + interval 1 day as known_from from read_parquet('{customers}')) as visits
    on holdout.entity_id = visits.user_id and holdout.point_at >= visits.known_from
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--days", type=int, default=150)
    parser.add_argument("--sessions-per-day", type=int, default=800)
    given = parser.parse_args()
    names = ("baseline", "logistic", "xgboost")
    columns = "".join(f"{name:>22}" for name in names)
    print(
        f"{'seed':>4}{'train rows':>11}{'rate':>7}{columns}{'truth':>8}{'ratio':>7}{'ECE':>8}"
        f"{'data s':>8}{'train s':>8}  gate"
    )
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            print_row(seed, given.days, given.sessions_per_day, Path(folder))


def print_row(seed: int, days: int, sessions_per_day: int, folder: Path) -> None:
    """The candidates' average precision on the holdout, and the truth's on the same rows."""
    import duckdb
    from sklearn.metrics import average_precision_score

    from jollyboat.simulate.customers import predict_absence

    ignored = shutil.ignore_patterns("data", ".venv", ".metaflow", "__pycache__", "dbt_packages")
    project = Path(shutil.copytree(DEMO, folder / "shop", ignore=ignored))
    store, customers = project / "data", folder / "customers.parquet"
    run(project, "-m", "jollyboat.cli", "add", "question", "churn", "--horizon", str(HORIZON))
    size = ["--days", str(days), "--sessions-per-day", str(sessions_per_day), "--seed", str(seed)]
    run(project, "-m", "jollyboat.cli", "simulate", *size, "--customers", str(customers))
    data_seconds = run(project, "flows/data.py", "run")
    train_seconds = run(project, "flows/train.py", "run", "--question", "churn")
    (trained,) = (store / "questions/churn/runs").glob("*/run.json")
    metrics = json.loads((trained.parent / "metrics.json").read_text())
    rows = duckdb.sql(LAST_VISITS.format(run=trained.parent, customers=customers)).df()
    silent_days = (rows["point_at"] - rows["last_day"]).dt.days - 1
    truth = predict_absence(rows["visit_chance"], rows["lapse_probability"], silent_days, HORIZON)
    best = average_precision_score(rows["label"], truth)
    own = average_precision_score(rows["label"], rows[metrics["chosen"]])
    run(project, "flows/deploy.py", "run", "--question", "churn", may_fail=True)
    has_champion = any(store.glob("questions/churn/models/shared/champion.json"))
    chosen, holdout = metrics["candidates"][metrics["chosen"]], metrics["split"]["holdout"]
    figures = (one["holdout"]["average_precision"] for one in metrics["candidates"].values())
    spans = ("{value:.3f} ({low:.3f}-{high:.3f})".format(**each) for each in figures)
    error = chosen["holdout"]["calibration_error"]["value"]
    print(
        f"{seed:>4}{metrics['split']['train']['rows']:>11,}{holdout['label_rate']:>7.3f}"
        + "".join(f"{span:>22}" for span in spans)
        + f"{best:>8.3f}{own / best:>7.3f}{error:>8.4f}{data_seconds:>8.1f}{train_seconds:>8.1f}"
        + f"  {'open' if has_champion else 'shut'}",
        flush=True,
    )


def run(project: Path, *command: str, may_fail: bool = False) -> float:
    """The seconds of a command of the project; one that fails ends the bench."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=os.environ | {"JOLLYBOAT_PROJECT": str(project), "STORE_ROOT": str(project / "data")},
        capture_output=True,
        text=True,
    )
    if done.returncode and not may_fail:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
