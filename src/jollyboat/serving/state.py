"""What the start page shows: each part as its file tells it, and what to do about a file that cannot be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jollyboat.experiments.pointer import going
from jollyboat.pages.plot import moment_of
from jollyboat.review import review
from jollyboat.store import Store, read_json
from jollyboat.store.errors import UserError

MOST_RUNS, MOST_STEPS = 10, 8
UNREADABLE = (
    UserError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


def state(store: Store) -> dict[str, Any]:
    """Each part by its name, None or empty where there is nothing yet; `troubles`: of which file, a sentence."""
    troubles: dict[Path, str] = {}

    def read(path: Path, show: Callable[[Any], Any], command: str) -> Any:
        try:
            return show(read_json(path)) if path.exists() else None
        except UNREADABLE as error:
            found = f"{path} does not hold what `{command}` wrote ({error.__cause__ or error!r})"
            troubles[path] = f"{found}: delete it, then `{command}`."
            return None

    runs = [
        (path.parent.name, read(path, _run, "make train")) for path in store.runs.glob("*/run.json")
    ]
    runs = sorted(
        ({"id": name} | told for name, told in runs if told), key=lambda run: run["finished_at"]
    )
    runs = [
        run | {"figure": read(store.runs / run["id"] / "metrics.json", _figure, "make train")}
        for run in runs[: -MOST_RUNS - 1 : -1]
    ]
    pointers = {
        path.parent.name: read(path, _steps, "make deploy")
        for path in sorted(store.models.glob("*/champion.json"))
    }
    latest = read(store.latest_snapshot, lambda told: str(told["snapshot"]), "make data")
    try:
        experiment = going(store)
    except UserError as refusal:
        experiment, troubles[store.experiment] = None, str(refusal)
    scores = sorted(
        store.scores.glob("*/report.html"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    pages = {"Data": store.reports / "data.html", "Monitor": store.monitor / "report.html"}
    pages |= {
        "Experiment": store.reports / "experiment.html",
        "Batch scores": scores[0] if scores else store.scores / "none",
    }
    return {
        "champions": {owner: steps for owner, steps in pointers.items() if steps},
        "runs": runs,
        "data": read(store.snapshots / latest / "manifest.json", _data, "make data")
        if latest
        else None,
        "monitor": read(store.monitor / "latest.json", _monitor, "make monitor"),
        "experiment": experiment,
        "readout": read(store.reports / "experiment.json", _readout, "jollyboat experiment read"),
        "judged": review.judged(store),
        "pages": {
            name: str(path.relative_to(store.root)) for name, path in pages.items() if path.exists()
        },
        "troubles": troubles,
    }


def _run(told: dict) -> dict[str, Any]:
    return {"finished_at": moment_of(told["finished_at"]), "chosen": told["chosen"]}


def _figure(metrics: dict) -> dict[str, float | None]:
    told = metrics["candidates"][metrics["chosen"]]["holdout"]["average_precision"]
    return {
        name: None if told[name] is None else float(told[name]) for name in ("value", "low", "high")
    }


def _steps(pointer: dict) -> list[dict[str, Any]]:
    """The last steps of a champion's history, the present one first."""
    steps = pointer["history"][: -MOST_STEPS - 1 : -1]
    if not steps:
        raise ValueError("its history is empty")
    names = ("version", "kind", "why")
    return [
        {name: step[name] for name in names}
        | {"at": moment_of(step["at"]), "forced": step.get("forced")}
        for step in steps
    ]


def _data(manifest: dict) -> dict[str, Any]:
    names = ("events", "quarantined_events", "sessions")
    rows = {name: int(manifest["tables"][name]["rows"]) for name in names}
    return {"id": manifest["id"], "published_at": moment_of(manifest["published_at"]), "rows": rows}


def _monitor(report: dict) -> dict[str, Any]:
    names = ("name", "subject", "tenant", "state", "sentence")
    checks = [{name: check[name] for name in names} for check in report["checks"]]
    return {
        "at": moment_of(report["at"]),
        "reason": report["retraining"]["reason"],
        "checks": checks,
    }


def _readout(found: dict) -> dict[str, Any]:
    return {"version": found["version"], "sentence": found["sentence"]}
