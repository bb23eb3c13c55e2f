"""Training runs as folders: what was learned from what, without an orchestrator."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from jollyboat.pages import page
from jollyboat.snapshots import snapshot
from jollyboat.store.errors import UserError
from jollyboat.store.project import LIBRARY
from jollyboat.store.store import (
    PROJECT,
    Store,
    default_store,
    hash_folder,
    read_json,
    write_json,
    write_text,
)
from jollyboat.training.libraries import installed_libraries


@dataclass(frozen=True)
class Run:
    """A training run. Its id is a hash of all that it is made from, so that the same question is the same run."""

    store: Store
    id: str

    @property
    def folder(self) -> Path:
        return self.store.runs / self.id

    @property
    def is_finished(self) -> bool:
        """Whether the run got to its end; run.json is written last."""
        return (self.folder / "run.json").exists()

    @property
    def snapshot_id(self) -> str:
        return self.settings["snapshot"]

    @property
    def settings(self) -> dict:
        """The snapshot's id, the settings it was trained with, the hash of the code, and the libraries' versions."""
        return read_json(self.folder / "settings.json", default={})

    @property
    def metrics(self) -> dict:
        """Every figure of the run; see jollyboat.training.training.compare."""
        return read_json(self.folder / "metrics.json", default={})

    @property
    def chosen(self) -> str:
        """The candidate that validation chose."""
        return self.metrics["chosen"]

    @property
    def schema(self) -> dict:
        """The features that the candidates read; see jollyboat.training.schema."""
        return read_json(self.folder / "schema.json")

    @property
    def feature_sql(self) -> str:
        """The SQL that computed the features."""
        return (self.folder / "features.sql").read_text(encoding="utf-8")

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def model(self, candidate: str) -> Path:
        """The folder of a saved candidate."""
        return self.folder / "candidates" / candidate

    def predictions(self):
        """The holdout as a data frame: keys, label, and one column of probabilities per candidate."""
        with duckdb.connect() as connection:
            return connection.read_parquet(str(self.folder / "holdout.parquet")).df()

    @property
    def cost(self) -> dict:
        """What the run took: seconds on the clock and of CPU, megabytes of memory at most and on disk, and by task."""
        return (read_json(self.folder / "run.json") or {}).get("cost", {})

    def finish(
        self,
        metrics: Mapping,
        predictions,
        schema: Mapping,
        feature_sql: str,
        costs: Mapping,
        seconds: float,
    ) -> None:
        """Keep what the run found; run.json comes last and says that all of it is there, and what it took."""
        draft = self.folder / f".holdout.{os.getpid()}.parquet"
        with duckdb.connect() as connection:
            connection.register("predictions", predictions)
            connection.execute("copy predictions to ? (format parquet)", [str(draft)])
        draft.replace(self.folder / "holdout.parquet")
        write_json(self.folder / "metrics.json", metrics)
        write_json(self.folder / "schema.json", schema)
        write_text(self.folder / "features.sql", feature_sql)
        finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        cost = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(sum(each["cpu_seconds"] for each in costs.values()), 1),
            "peak_mb": max(each["peak_mb"] for each in costs.values()),
            "disk_mb": round(
                sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) / 1e6,
                2,
            ),
            "by_task": dict(costs),
        }
        told = {
            "run": self.id,
            "chosen": metrics["chosen"],
            "finished_at": finished_at,
            "cost": cost,
        }
        write_json(self.folder / "run.json", told)


def begin(store: Store, snapshot_id: str, settings: Mapping) -> Run:
    """The run of this snapshot, settings, code and libraries, new or as far as it got; it becomes the latest run."""
    code = hash_folder(PROJECT / "ml", ".py") + hash_folder(LIBRARY / "training", ".py")
    made_with = {"code": code, "libraries": installed_libraries()}
    asked = {"snapshot": snapshot_id, **made_with, **settings}
    run = Run(store, hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12])
    write_json(run.folder / "settings.json", asked)
    write_json(store.latest_run, {"run": run.id})
    return run


def open(run_id: str, store: Store | None = None) -> Run:
    """A finished run by its id ('' for the latest); UserError, naming those there are, if it is unknown or unfinished."""
    store = store or default_store()
    finished = sorted(path.parent.name for path in store.runs.glob("*/run.json"))
    run_id = run_id or read_json(store.latest_run, default={}).get("run", "")
    if not run_id:
        raise UserError("There is no training run yet: `make train` makes one.")
    run = Run(store, run_id)
    if run.is_finished:
        return run
    there_are = f"finished runs: {', '.join(finished)}" if finished else "no run has finished yet"
    is_begun = run.folder.exists()
    what = (
        "did not finish: `make train` takes it up again"
        if is_begun
        else "is unknown: `make train` makes a new one"
    )
    raise UserError(f"Training run {run_id!r} {what}; {there_are}.")


def format_summary(run: Run, stands: bool, seconds: float) -> str:
    """The leaderboard on the holdout, the choice, and where the page is."""
    metrics = run.metrics
    lines = [
        f"{'candidate':<14}{'average precision (95 %)':>30}{'ROC AUC':>10}{'against the baseline':>28}"
    ]
    for name, one in metrics["candidates"].items():
        precision, auc = one["holdout"]["average_precision"], one["holdout"]["roc_auc"]
        lines.append(
            f"{name:<14}{interval(precision):>30}{auc['value']:>10.3f}"
            f"{interval(one['against_baseline'], signed=True) if 'against_baseline' in one else '':>28}"
        )
    parts = metrics["split"]
    rows = ", ".join(f"{part['rows']:,} {name}" for name, part in parts.items())
    what = "stands, nothing is new" if stands else "finished"
    lines.append(
        f"train: {rows}; run {run.id} {what}; {metrics['chosen']} chosen on validation; {seconds:.1f} s"
    )
    lines.append(f"page: {run.report}")
    return "\n".join(lines)


def write_page(run: Run, title: str) -> str:
    """Write the run's report.html and return it."""
    context = {
        "settings": run.settings,
        "metrics": run.metrics,
        "judged": _judged(run),
        "gates": _gates(run),
    }
    return page.write(run.report, "run.html", title=title, run=run, **context)


def _judged(run: Run) -> dict[str, int]:
    """How many sessions people judged which way, as the run's snapshot knew; none where it has no judgements."""
    try:
        said = snapshot.open(run.snapshot_id, run.store).relation("judgements").filter("is_in_effect")
    except UserError:
        return {}
    return dict(said.aggregate("judgement, count(*)").fetchall())


def _gates(run: Run) -> list[tuple[str, dict]]:
    """Where the gate's page on each bundle of the run is, as seen from the run's page, and what it decided."""
    said = []
    for manifest in sorted(run.store.models.glob("*/*/manifest.json")):
        gate = run.store.gate(manifest.parent.parent.name, manifest.parent.name)
        if read_json(manifest).get("run") == run.id and gate.exists():
            page_of_gate = gate.with_suffix(".html").relative_to(run.store.root)
            said.append((f"../../{page_of_gate.as_posix()}", read_json(gate)["decision"]))
    return said


def interval(figure: Mapping, signed: bool = False) -> str:
    """A figure with what 95 % of resamples gave, as far as they are known."""
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    sign = "+" if signed else ""
    if value is None:
        return "unknown"
    return f"{value:{sign}.3f}" + ("" if low is None else f" ({low:{sign}.3f} to {high:{sign}.3f})")
