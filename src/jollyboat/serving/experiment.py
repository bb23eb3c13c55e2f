"""An experiment: a challenger serves a share of the visitors, is read, then promoted or stopped."""

from collections.abc import Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import pandas as pd

from jollyboat.bundles.bundle import open_bundle
from jollyboat.champions import champion, policy
from jollyboat.experiments.pointer import running_experiment, suggest_restart
from jollyboat.experiments.readout import read
from jollyboat.gate import gate
from jollyboat.monitoring import inputs
from jollyboat.pages import page
from jollyboat.pages.terminal import format_count, format_percent, join_lines
from jollyboat.serving import deployment
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, UserError, person, write_json
from jollyboat.store.settings import Settings
from jollyboat.training import run

# The columns of the prediction log that a readout needs.
LOG_COLUMNS = ["tenant_id", "person_id", "anonymous_id", "session_id", "model_version"]
LOG_COLUMNS += ["answered_at", "variant", "outcome", "latency_ms", "probability"]
# A challenger may fail these checks of the gate, since the experiment decides them.
DECIDED_BY_VISITORS = (
    "beats_the_baseline",
    "not_worse_than_champion",
    "no_segment_falls",
    "no_tenant_tail_falls",
)


def start(store: Store, run_id: str, share: float, settings: Settings) -> str:
    """Give a run's best candidate a share of the visitors; servers follow without a restart."""
    if not 0 < share < 1:
        raise UserError(
            f"A challenger's share is between 0 and 1, not {share:g}: "
            "`jollyboat experiment start --share 0.5`."
        )
    if (other := running_experiment(store)) is not None:
        raise UserError(
            f"{other['version']} is the challenger already: "
            "first `jollyboat experiment stop` or `promote`."
        )
    before = champion.current(store)
    if before is None:
        raise UserError("There is no champion to challenge: `make deploy` makes one.")
    chosen = run.open(run_id, store)
    if chosen.is_ranking:
        raise UserError(
            "An experiment compares outcomes that follow or not, and a ranking has none: "
            f"compare the runs of {store.question} by their figures."
        )
    bundle = deployment.assemble_bundle(chosen, f"Model card · {settings.project.name}")
    if (bundle.owner, bundle.version) == before:
        raise UserError(
            f"{bundle.version} is the champion itself: "
            "`make train` on newer data, or choose another run with --run."
        )
    facts, _ = deployment.gather_facts(chosen, bundle, before)
    failures = [
        check.sentence
        for check in gate.decide(facts, settings.gate.model_dump()).checks
        if check.name not in DECIDED_BY_VISITORS and not check.passed
    ]
    if failures:
        raise UserError("This challenger may not serve visitors. " + " ".join(failures))
    experiment = {
        "salt": token_hex(8),
        "share": share,
        "owner": bundle.owner,
        "run": chosen.id,
        "version": bundle.version,
        "champion": before[1],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(store.experiment, experiment)
    return (
        f"{bundle.version} serves {format_percent(share)} of the visitors of {bundle.owner}; "
        "`make data`, then `jollyboat experiment read` compares them."
    )


def readout(store: Store, settings: Settings) -> dict[str, Any]:
    """The experiment by the newest snapshot, also written as page and file below data/reports.

    Answers without an anonymous_id, and those to paused tenants, are left out: their variant was
    not drawn.
    UserError where the champion has changed since the start.
    """
    experiment = _running(store)
    now = champion.current(store, experiment["owner"])
    if now != (experiment["owner"], experiment["champion"]):
        raise UserError(
            f"The champion is now {now[1] if now else 'none'}, and the experiment compares "
            f"{experiment['version']} with {experiment['champion']}: "
            "`jollyboat experiment stop`, then `jollyboat experiment start` begins another."
        )
    log = inputs.predictions(snapshot.open_latest(store))
    log = log if len(log) else pd.DataFrame(columns=LOG_COLUMNS)
    # A visitor's variant is drawn by the device, another question's by its entity.
    is_drawn = log["entity_id" if store.question else "anonymous_id"].notna()
    policies = policy.read_policies(store)
    paused = [name for name, each in policies.items() if each["state"] == policy.PAUSED]
    is_drawn &= ~log["tenant_id"].isin(paused)
    is_of_both = log["model_version"].isin([experiment["version"], experiment["champion"]])
    began = pd.Timestamp(experiment["since"]).tz_localize(None)
    log = log[is_of_both & is_drawn & (pd.to_datetime(log["answered_at"]) >= began)]
    is_wanted = settings.questions[settings.name_of(store.question)].is_wanted
    limits = settings.experiment.model_dump()
    result = experiment | read(log, experiment["share"], limits, is_wanted)
    write_json(store.reports / "experiment.json", result)
    page.write(
        store,
        store.reports / "experiment.html",
        "experiment.html",
        title=f"Experiment · {settings.project.name}",
        readout=result,
        alpha=settings.experiment.alpha,
    )
    return result


def promote(store: Store, settings: Settings, force: str = "") -> str:
    """Make the challenger champion and end the experiment; `force` says why one not better is."""
    result = readout(store, settings)
    is_better = result["verdict"] == "better"
    if not is_better and len(force.split()) < 2:
        short = f"--force is {force!r}, which needs two words or more. " if force else ""
        raise UserError(
            f"{short}{result['sentence']} To make it champion all the same: "
            '`jollyboat experiment promote --force "the reason"`.'
        )
    owner, version = result["owner"], result["version"]
    change = champion.promote(
        store,
        owner,
        version,
        run=open_bundle(store.bundle(owner, version)).manifest["run"],
        by=person(),
        why=f"experiment, {result['verdict']}: {result['sentence']}",
        over=result["champion"],
        forced=None if is_better else force,
    )
    stop(store)
    return change.sentence


def stop(store: Store) -> str:
    """End the experiment, even one whose file is broken; the last readout stays."""
    try:
        experiment = _running(store)
    except UserError:
        if not store.experiment.exists():
            raise
        experiment = None
    store.experiment.unlink()
    if experiment is None:
        return f"{store.experiment} held no experiment and was deleted; the champion serves all."
    try:
        now = champion.current(store, experiment["owner"])
        champion_sentence = (
            f"Champion {now[1]} serves all visitors."
            if now
            else "There is no champion: `make deploy` makes one."
        )
    except UserError as error:  # the experiment has ended all the same
        champion_sentence = str(error)
    return f"{experiment['version']} is no longer the challenger. {champion_sentence}"


def _running(store: Store) -> dict[str, Any]:
    experiment = running_experiment(store)
    if experiment is None:
        raise UserError(
            "There is no experiment: `jollyboat experiment start` begins one with the latest run."
        )
    return experiment


def format_summary(result: Mapping[str, Any], store: Store) -> str:
    """The variants, whether the challenger's bundle can be used, the conclusion and the page."""
    lines = [f"{'variant':<12}{'visitors':>10}{'observed':>10}{'outcomes':>10}{'rate':>9}"]
    for arm in result["variants"]:
        counts = "".join(f"{arm[name]:>10,}" for name in ("visitors", "observed", "outcomes"))
        rate = "" if arm["rate"] is None else format_percent(arm["rate"])
        lines.append(f"{arm['variant']:<12}{counts}{rate:>9}")
    crossed, waiting = result["crossed"], result["waiting"]
    met = format_count(crossed, "visitor")
    lines.append(f"{met} met both variants; {format_count(waiting, 'outcome')} pending.")
    try:
        with suggest_restart(result):
            open_bundle(store.bundle(result["owner"], result["version"]))
    except UserError as error:
        lines.append(f"challenger: not in use. {error}")
    lines.append(f"experiment: {result['sentence']}")
    lines.append(f"page: {store.reports / 'experiment.html'}")
    return join_lines(lines)
