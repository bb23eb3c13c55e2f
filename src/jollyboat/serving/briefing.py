"""What a person who does not run the flows asks: is something to decide, and is it worth its cost?

All of it is read from files that the flows wrote; what cannot be read is left out.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from jollyboat.bundles.bundle import SHARED
from jollyboat.pages.terminal import format_count
from jollyboat.serving.project_state import UNREADABLE
from jollyboat.store import (
    Store,
    UserError,
    name_question,
    project_settings,
    read_json,
    words_of,
)
from jollyboat.store.settings import Targets
from jollyboat.training.run import headline
from jollyboat.training.targets import Target, judge_targets

MOST_INCIDENTS, MOST_RUNS = 5, 5


@dataclass(frozen=True)
class Item:
    """Something that waits for a person: what, and the page or the command to go on with."""

    name: str
    sentence: str
    page: str = ""
    command: str = ""
    color: str = "warn"  # or "bad"


@dataclass(frozen=True)
class Briefing:
    """One question's figures. `promised` is the holdout's when the champion was promoted."""

    measure: str
    promised: Mapping[str, float]
    value: Mapping[str, float]
    now: Mapping[str, Any] | None
    calls: int
    calling_tenants: int
    smoke: Mapping[str, float]
    training: list[float] = field(default_factory=list)  # seconds of the last runs, oldest first
    targets: list[Target] = field(default_factory=list)


def gather(store: Store, state: Mapping[str, Any], pending: int | None = None) -> dict[str, Any]:
    """What the overview begins with: `decisions`, `owner`, and a briefing by question's store."""
    stores = [(store, state), *((one["store"], one["state"]) for one in state["others"])]
    return {
        "decisions": find_decisions(store, state, pending),
        "owner": _owner(),
        "briefings": [(words_of(one), each, brief(one, each)) for one, each in stores],
    }


def _owner() -> str:
    with suppress(UserError):
        return project_settings().project.owner
    return ""


def find_decisions(store: Store, state: Mapping[str, Any], pending: int | None) -> list[Item]:
    """What waits for a decision, the most urgent first. `pending` are the sessions to review."""
    items = [*_of_data(state), *_of_question(store, state)]
    for other in state["others"]:
        items += _of_question(other["store"], other["state"])
    if pending:
        what = f"{format_count(pending, 'session')} of the newest days wait for a judgement."
        items.append(Item("Review", what, command="jollyboat review"))
    return items


def _of_data(state: Mapping[str, Any]) -> Iterator[Item]:
    page = state["pages"].get("Data", "")
    if state["refused"]:
        what = f"The last run published nothing: {'; '.join(state['refused'])}."
        yield Item("Data refused", what, page, color="bad")
    if state["data"] and state["data"]["held"]:
        held = state["data"]["held"]
        more = f" and {len(held) - MOST_INCIDENTS} more" if len(held) > MOST_INCIDENTS else ""
        names = ", ".join(held[:MOST_INCIDENTS]) + more
        verb = "has" if len(held) == 1 else "have"
        yield Item("Tenants held back", f"{names} {verb} the rows of an earlier day.", page)


def _of_question(store: Store, state: Mapping[str, Any]) -> Iterator[Item]:
    words, monitored = words_of(store), state["monitor"]
    of = f" of {words.question}" if store.question else ""
    page = state["pages"].get("Monitor", "")
    alarms = (
        [check for check in monitored["checks"] if check["state"] == "alarm"] if monitored else []
    )
    for alarm in alarms[:MOST_INCIDENTS]:
        who = "" if alarm["tenant"] == "all" else f", {alarm['tenant']}"
        name = f"Open alert{of}: {alarm['name']}{who}"
        yield Item(name, name_question(alarm["sentence"], store.question), page, color="bad")
    if len(alarms) > MOST_INCIDENTS:
        more = format_count(len(alarms) - MOST_INCIDENTS, "more alert")
        yield Item(f"Open alerts{of}", f"{more}.", page)
    if refused := state["refused_model"]:
        failed = ", ".join(refused["failed"])
        stays = "the champion stays" if state["champions"] else "there is no champion yet"
        sentence = f"{refused['version']} failed {failed}; {stays}."
        yield Item(f"Deployment refused{of}", sentence, refused["page"])
    readout, experiment = state["readout"], state["experiment"]
    is_read = experiment and readout and readout["version"] == experiment["version"]
    if is_read and readout["verdict"] != "open":
        page = state["pages"].get("Experiment", "")
        sentence = name_question(readout["sentence"], store.question)
        yield Item(f"Experiment{of}: {readout['verdict']}", sentence, page)


def brief(store: Store, state: Mapping[str, Any]) -> Briefing | None:
    """The figures of a store's question; None without a champion for all tenants."""
    history = state["champions"].get(SHARED)
    if not history:
        return None
    with suppress(*UNREADABLE):
        version = history[0]["version"]
        manifest = read_json(store.bundle(SHARED, version) / "manifest.json", metrics=dict)
        gate = read_json(store.gate(SHARED, version), default={})
        measure, promised = headline(manifest["metrics"])
        monitor = read_json(store.monitor / "latest.json", default={})
        calls = [call for call in monitor.get("calls", []) if call["count"]]
        smoke = {name: float(value) for name, value in (gate.get("smoke") or {}).items()}
        return Briefing(
            measure,
            promised,
            manifest["metrics"].get("expected_value_per_1000", {}),
            _quality_now(monitor, measure),
            sum(call["count"] for call in calls),
            len(calls),
            smoke,
            _training_seconds(store),
            judge_targets(_targets(store), manifest["metrics"], smoke.get("p99_ms")),
        )
    return None


def _quality_now(monitor: Mapping, measure: str) -> Mapping[str, Any] | None:
    for check in monitor.get("checks", []):
        if (check["name"], check["tenant"], check["subject"]) == ("quality", "all", measure):
            return check
    return None


def _training_seconds(store: Store) -> list[float]:
    runs = [read_json(path, default={}) for path in store.runs.glob("*/run.json")]
    runs = sorted((run for run in runs if "cost" in run), key=lambda run: run["finished_at"])
    return [float(run["cost"]["seconds"]) for run in runs[-MOST_RUNS:]]


def _targets(store: Store) -> Targets:
    with suppress(UserError):
        return project_settings().of(store.question).targets
    return Targets()
