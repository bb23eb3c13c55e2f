"""The state of a project, read from its files: what the start page and `jollyboat status` show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jollyboat.bundles.bundle import SHARED
from jollyboat.experiments.pointer import running_experiment
from jollyboat.pages.plot import moment_of
from jollyboat.review import review
from jollyboat.store import Store, UserError, read_json, words_of
from jollyboat.training.run import headline

MOST_RUNS, MOST_STEPS, MOST_OWNERS = 10, 8, 5
UNREADABLE = (
    UserError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


def read_state(store: Store) -> dict[str, Any]:
    """Each part by its name, None or empty where there is none yet.

    `others` has the words and the state of each further question that has files. `troubles` has a
    sentence for each file that cannot be read.
    """
    troubles: dict[Path, str] = {}

    def read(path: Path, select: Callable[[Any], Any], command: str, empty: Any = None) -> Any:
        try:
            return select(read_json(path, empty)) if path.exists() else None
        except UNREADABLE as error:
            reason = f"is not as `{command}` writes it ({error.__cause__ or error!r})"
            troubles[path] = f"{path} {reason}: delete it, then `{command}`."
            return None

    def read_experiment() -> dict[str, Any] | None:
        try:
            return running_experiment(store)
        except (UserError, OSError) as error:
            troubles[store.experiment] = str(error)
            return None

    def read_figure(run_id: str) -> dict[str, Any] | None:
        return read(store.runs / run_id / "metrics.json", _figure, "make train")

    runs = [
        {"id": path.parent.name} | run
        for path in store.runs.glob("*/run.json")
        if (run := read(path, _run, "make train"))
    ]
    runs = sorted(runs, key=lambda run: run["finished_at"], reverse=True)[:MOST_RUNS]
    paths = sorted(store.models.glob("*/champion.json"))
    if len(paths) > MOST_OWNERS:  # the page of all tenants shows the others
        paths = [path for path in paths if path.parent.name == SHARED] or paths[:1]
    histories = {path.parent.name: read(path, _history, "make deploy") for path in paths}
    latest = read(store.latest_snapshot, lambda pointer: str(pointer["snapshot"]), "make data")
    manifest = store.snapshots / (latest or "none") / "manifest.json"
    data = read(manifest, _data, "make data")
    held = data["held"] if data else []
    gates = store.models.glob(f"{SHARED}/*-gate.json")
    newest = max(gates, key=lambda path: path.stat().st_mtime, default=store.models / "none")
    gate = read(newest, lambda report: _gate(report, newest, store), "make deploy")
    # A champion that was forced past the gate is not refused.
    present = next((step["version"] for step in histories.get(SHARED) or ()), None)
    is_refused = gate and gate["failed"] and gate["version"] != present
    readout = store.reports / "experiment.json"
    others = [
        {"words": words_of(one), "store": one, "state": read_state(one)}
        for one in (store.of_every_question()[1:] if not store.question else ())
    ]
    troubles |= {path: text for one in others for path, text in one["state"]["troubles"].items()}
    return {
        "others": others,
        "champions": {owner: steps for owner, steps in histories.items() if steps},
        "runs": [run | {"figure": read_figure(run["id"])} for run in runs],
        "data": data,
        "refused": read(
            store.failed_rows, lambda failed: _refused(failed, held), "make data", empty=[]
        )
        or [],
        "refused_model": gate if is_refused else None,
        "monitor": read(store.monitor / "latest.json", _monitor, "make monitor"),
        "experiment": read_experiment(),
        "readout": read(readout, _readout, "jollyboat experiment read"),
        "judgements": [] if store.question else review.judged(store),  # of sessions
        "pages": _pages(store),
        "troubles": troubles,
    }


def _pages(store: Store) -> dict[str, str]:
    """The address of each report that exists."""
    scores = sorted(store.scores.glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    pages = {
        "Data": store.reports / "data.html",
        "Tenants": store.reports / "tenants.html",
        "All runs": store.reports / "runs.html",
        "Monitor": store.monitor / "report.html",
        "Experiment": store.reports / "experiment.html",
        "Batch scores": scores[-1] if scores else store.scores / "none",
    }
    return {
        name: str(path.relative_to(store.root)) for name, path in pages.items() if path.exists()
    }


def _run(run: dict) -> dict[str, Any]:
    return {"finished_at": moment_of(run["finished_at"]), "chosen": run["chosen"]}


def _figure(metrics: dict) -> dict[str, Any]:
    measure, figure = headline(metrics["candidates"][metrics["chosen"]]["holdout"])
    values = {name: figure[name] for name in ("value", "low", "high")}
    figures = {name: None if value is None else float(value) for name, value in values.items()}
    return {"measure": measure, **figures}


def _history(pointer: dict) -> list[dict[str, Any]]:
    """The last steps of a champion's history, the present one first."""
    steps = pointer["history"][: -MOST_STEPS - 1 : -1]
    if not steps:
        raise ValueError("its history is empty")
    return [
        {name: step[name] for name in ("version", "kind", "why")}
        | {"at": moment_of(step["at"]), "forced": step.get("forced")}
        for step in steps
    ]


def _data(manifest: dict) -> dict[str, Any]:
    names = ("events", "quarantined_events", "sessions")
    rows = {name: int(manifest["tables"][name]["rows"]) for name in names}
    return {
        "id": manifest["id"],
        "published_at": moment_of(manifest["published_at"]),
        "rows": rows,
        "held": list(manifest.get("held", {})),
    }


def _refused(failed: list[dict], held: list[str]) -> list[str]:
    """The expectations for which the last audit published nothing, or other tenants than these."""
    critical = [
        each
        for each in failed
        if each["severity"] == "critical" and not {*(each.get("tenants") or [""])} <= {*held}
    ]
    return [f"{each['table']}: {each['expectation']}" for each in critical]


def _gate(report: dict, path: Path, store: Store) -> dict[str, Any]:
    """The version that was judged, the checks that it failed, and the page."""
    checks = report["decision"]["checks"]
    return {
        "version": path.name.removesuffix("-gate.json"),
        "failed": [check["name"] for check in checks if not check["passed"]],
        "page": path.with_suffix(".html").relative_to(store.root).as_posix(),
    }


def _monitor(report: dict) -> dict[str, Any]:
    names = ("name", "subject", "tenant", "state", "sentence")
    checks = [{name: check[name] for name in names} for check in report["checks"]]
    reason = report["retraining"]["reason"]
    return {"at": moment_of(report["at"]), "reason": reason, "checks": checks}


def _readout(readout: dict) -> dict[str, Any]:
    names = ("version", "sentence")
    return {name: readout[name] for name in names} | {"verdict": readout.get("verdict", "open")}
