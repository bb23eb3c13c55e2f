"""Training runs as folders, readable without an orchestrator."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from jollyboat.pages import page
from jollyboat.pages.terminal import join_lines
from jollyboat.snapshots import snapshot
from jollyboat.store import (
    LIBRARY,
    PROJECT,
    Store,
    UserError,
    default_store,
    hash_file,
    hash_folder,
    read_json,
    write_json,
    write_text,
)
from jollyboat.training.libraries import installed_libraries
from jollyboat.training.thresholds import cuts

FIGURE = dict.fromkeys(("value", "low", "high"), float | int | None)


@dataclass(frozen=True)
class Run:
    """A training run. Its id is a hash of its inputs, so that equal inputs are the same run."""

    store: Store
    id: str

    @property
    def folder(self) -> Path:
        return self.store.runs / self.id

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete; run.json is written last."""
        return (self.folder / "run.json").exists()

    @property
    def snapshot_id(self) -> str:
        return self.settings["snapshot"]

    @property
    def settings(self) -> dict:
        """The run's inputs: snapshot id, settings, hash of the code, versions of the libraries."""
        return read_json(self.folder / "settings.json", default={}, snapshot=str)

    @property
    def metrics(self) -> dict:
        """Every figure of the run; see jollyboat.training.training.compare."""
        return read_json(self.folder / "metrics.json", default={})

    @property
    def is_ranking(self) -> bool:
        """Whether the question is which item comes next; see jollyboat.ranking.learner."""
        return "ranking" in self.metrics

    @property
    def chosen(self) -> str:
        """The candidate with the best average precision, or MRR@20 of a ranking, on validation."""
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
        """The holdout as a data frame: keys, label, and a column of probabilities per candidate."""
        with duckdb.connect() as connection:
            return connection.read_parquet(str(self.folder / "holdout.parquet")).df()

    def own_model(self, tenant: str) -> Path:
        """The folder of a tenant's own saved model."""
        return self.folder / "tenants" / tenant

    @property
    def own_models(self) -> dict[str, dict]:
        """The result of each tenant's own model; see jollyboat.training.own_models.compare."""
        return read_json(self.folder / "tenants.json", default={})

    def own_predictions(self):
        """The own models' holdouts as a data frame: keys, label and probability."""
        with duckdb.connect() as connection:
            return connection.read_parquet(str(self.folder / "tenants.parquet")).df()

    @property
    def cost(self) -> dict:
        """Wall-clock and CPU seconds, peak memory and disk space in MB, and the cost by task."""
        return read_json(self.folder / "run.json", {}, cost=dict | None).get("cost") or {}

    @property
    def tags(self) -> dict:
        """The words that people gave the run: `tags` and a `note`."""
        return {"tags": [], "note": ""} | read_json(self.folder / "tags.json", default={})

    def tag(self, name: str, note: str | None, is_removed: bool = False) -> dict:
        """Give the run this tag, or remove it, and write the note if there is one."""
        present = [one for one in self.tags["tags"] if one != name]
        tags = {"tags": present if is_removed else [*present, name]}
        tags["note"] = self.tags["note"] if note is None else note
        write_json(self.folder / "tags.json", tags)
        return tags

    def keep_own_models(self, results: Mapping[str, Mapping], holdout) -> None:
        """Write the result of each tenant's own model, and their holdouts."""
        self._write_rows(holdout, "tenants.parquet")
        write_json(self.folder / "tenants.json", results)

    def finish(
        self,
        metrics: Mapping,
        predictions,
        schema: Mapping,
        feature_sql: str,
        costs: Mapping,
        seconds: float,
    ) -> None:
        """Write the run's results; run.json comes last and marks the run as complete."""
        self._write_rows(predictions, "holdout.parquet")
        write_json(self.folder / "metrics.json", metrics)
        write_json(self.folder / "schema.json", schema)
        write_text(self.folder / "features.sql", feature_sql)
        sizes = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
        cost = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(sum(each["cpu_seconds"] for each in costs.values()), 1),
            "peak_mb": max(each["peak_mb"] for each in costs.values()),
            "disk_mb": round(sum(sizes) / 1e6, 2),
            "by_task": dict(costs),
        }
        finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"run": self.id, "chosen": metrics["chosen"], "finished_at": finished_at}
        write_json(self.folder / "run.json", about | {"cost": cost})

    def _write_rows(self, rows, name: str) -> None:
        draft = self.folder / f".{os.getpid()}.{name}"
        with duckdb.connect() as connection:
            connection.register("rows", rows)
            connection.execute("copy rows to ? (format parquet)", [str(draft)])
        draft.replace(self.folder / name)


def begin(store: Store, snapshot_id: str, settings: Mapping) -> Run:
    """The run of this snapshot, settings, code and libraries, as the latest run.

    It is new, or has the progress of an earlier start.
    """
    code = hash_file(PROJECT / "ml" / "candidates.py") + _hash_library()
    code_hash = hashlib.sha256(code.encode()).hexdigest()[:16]
    versions = {"code": code_hash, "libraries": installed_libraries()}
    question = {"question": store.question} if store.question else {}
    inputs = {"snapshot": snapshot_id, **question, **versions, **settings}
    run = Run(store, hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12])
    write_json(run.folder / "settings.json", inputs)
    write_json(store.latest_run, {"run": run.id})
    return run


def _hash_library() -> str:
    return "".join(hash_folder(LIBRARY / name, ".py") for name in ("training", "ranking"))


def open(run_id: str, store: Store | None = None) -> Run:
    """A finished run by its id, '' for the latest; UserError lists the finished runs."""
    store = store or default_store()
    run_id = run_id or read_json(store.latest_run, default={}, run=str).get("run", "")
    if not run_id:
        raise UserError(f"There is no training run{store.why_none()}. Run `make train`.")
    run = Run(store, run_id)
    if run.is_finished:
        return run
    ids = ", ".join(sorted(path.parent.name for path in store.runs.glob("*/run.json")))
    finished = f"finished runs: {ids}" if ids else "no run has finished yet"
    if run.folder.exists():
        trouble, effect = "did not finish", "resumes it, or says again why it was refused"
    else:
        trouble, effect = "does not exist", "makes a new one"
    raise UserError(f"Training run {run_id!r} {trouble}; {finished}. `make train` {effect}.")


def format_summary(run: Run, is_unchanged: bool, seconds: float) -> str:
    """The leaderboard on the holdout, the chosen candidate, and the path of the page."""
    metrics = run.metrics
    lines = list(_rank_lines(metrics) if "ranking" in metrics else _lines(metrics))
    rows = ", ".join(f"{part['rows']:,} {name}" for name, part in metrics["split"].items())
    status = "exists already, nothing changed" if is_unchanged else "finished"
    lines.append(
        f"train: {rows}; run {run.id} {status}; {metrics['chosen']} chosen on validation; "
        f"{seconds:.1f} s"
    )
    lines += [f"warning: {sentence}" for sentence in metrics.get("warnings", ())]
    return join_lines([*lines, f"page: {run.report}"])


def _lines(metrics: Mapping) -> Iterator[str]:
    header = ("average precision (95 %)", "ROC AUC", "lead over the baseline")
    yield f"{'candidate':<14}{header[0]:>30}{header[1]:>10}{header[2]:>28}"
    for name, candidate in metrics["candidates"].items():
        holdout, lead = candidate["holdout"], candidate.get("against_baseline")
        lead_text = interval(lead, signed=True) if lead else ""
        yield (
            f"{name:<14}{interval(holdout['average_precision']):>30}"
            f"{holdout['roc_auc']['value']:>10.3f}{lead_text:>28}"
        )


def _rank_lines(metrics: Mapping) -> Iterator[str]:
    count = metrics["ranking"]["count"]
    names = ("candidate", f"MRR@{count} (95 %)", f"HR@{count}", "coverage")
    leads = {"against_baseline": "lead over popularity", "against_previous": "over the one before"}
    yield "{:<11}{:>22}{:>6}{:>9}{:>26}{:>26}".format(*names, *leads.values())
    for name, candidate in metrics["candidates"].items():
        holdout = candidate["holdout"]
        texts = [interval(candidate[key], signed=True) if key in candidate else "" for key in leads]
        yield (
            f"{name:<11}{interval(holdout[f'mrr_{count}']):>22}"
            f"{holdout[f'hit_rate_{count}']['value']:>6.3f}{holdout['coverage']:>9.3f}"
            f"{texts[0]:>26}{texts[1]:>26}"
        )


def headline(figures: Mapping) -> tuple[str, Mapping]:
    """The measure that candidates are chosen by, and its figure."""
    if "mrr_20" in figures:
        return "MRR@20", figures["mrr_20"]
    return "average precision", figures["average_precision"]


def write_page(run: Run, title: str) -> str:
    """Write the run's report.html and return it."""
    context = {
        "settings": run.settings,
        "metrics": run.metrics,
        "judged": _count_judgements(run),
        "gates": _gates(run),
    }
    template = "rank_run.html"
    if not run.is_ranking:
        template, context["cuts"] = "run.html", _cuts(run)
    return page.write(run.store, run.report, template, title=title, run=run, **context)


def _cuts(run: Run) -> list[dict[str, float | None]]:
    """What acting on the holdout at each threshold brings; see jollyboat.training.thresholds."""
    metrics, holdout = run.metrics, run.predictions()
    start, end = (
        datetime.fromisoformat(metrics["split"]["holdout"][key]) for key in ("from", "to")
    )
    days = max((end - start) / timedelta(days=1), 1.0)
    probability, decision = holdout[run.chosen], run.settings["decision"]
    return cuts(holdout["label"], probability, metrics["threshold"], decision, days)


def _count_judgements(run: Run) -> dict[str, int]:
    """The number of sessions by judgement in the run's snapshot; empty if it has no judgements."""
    try:
        opened = snapshot.open(run.snapshot_id, run.store)
        rows = opened.relation("judgements").filter("is_in_effect")
    except UserError:
        return {}
    return dict(rows.aggregate("judgement, count(*)").fetchall())


def _gates(run: Run) -> list[tuple[str, dict]]:
    """For each bundle of the run: the relative address of its gate page, and the decision."""
    gates = []
    for manifest in sorted(run.store.models.glob("*/*/manifest.json")):
        gate = run.store.gate(manifest.parent.parent.name, manifest.parent.name)
        if read_json(manifest).get("run") == run.id and gate.exists():
            gate_page = gate.with_suffix(".html").relative_to(run.store.models.parent)
            decision = read_json(gate, decision=dict)["decision"]
            gates.append((f"../../{gate_page.as_posix()}", decision))
    return gates


def interval(figure: Mapping, signed: bool = False) -> str:
    """A figure with its 95 % interval, as far as they are known."""
    value, low, high = map(figure.get, FIGURE)
    sign = "+" if signed else ""
    if value is None:
        return "unknown"
    return f"{value:{sign}.3f}" + ("" if low is None else f" ({low:{sign}.3f} to {high:{sign}.3f})")
