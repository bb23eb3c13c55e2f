"""What a training run found, as lines for the terminal and as a page."""

from rails import snapshot
from rails.errors import Refused
from rails.page import render
from rails.run import Run
from rails.store import write_text


def tell(run: Run, stands: bool, seconds: float) -> str:
    """The leaderboard on the holdout, the choice, and where the page is."""
    metrics = run.metrics
    lines = [f"{'candidate':<14}{'average precision (95 %)':>30}{'ROC AUC':>10}{'against the rule':>28}"]
    for name, one in metrics["candidates"].items():
        precision, auc = one["holdout"]["average_precision"], one["holdout"]["roc_auc"]
        lines.append(
            f"{name:<14}{_interval(precision):>30}{auc['value']:>10.3f}"
            f"{_interval(one['against_rule'], signed=True) if 'against_rule' in one else '':>28}"
        )
    parts = metrics["split"]
    rows = ", ".join(f"{part['rows']:,} {name}" for name, part in parts.items())
    what = "stands, nothing is new" if stands else "finished"
    lines.append(f"train: {rows}; run {run.id} {what}; {metrics['chosen']} chosen on validation; {seconds:.1f} s")
    lines.append(f"page: {run.report}")
    return "\n".join(lines)


def write_page(run: Run, title: str) -> str:
    """Write the run's report.html and return it."""
    context = {"run": run, "settings": run.settings, "metrics": run.metrics, "judged": _judged(run)}
    html = render("run.html", title=title, **context)
    write_text(run.report, html)
    return html


def _judged(run: Run) -> dict[str, int]:
    """How many sessions people judged which way, as the run's snapshot knew; none where it has no judgements."""
    try:
        said = snapshot.open(run.snapshot_id, run.store).relation("judgements").filter("stands")
    except Refused:
        return {}
    return dict(said.aggregate("judgement, count(*)").fetchall())


def _interval(figure: dict, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if None in (value, low, high):
        return "unknown"
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"
