"""An experiment: a challenger takes its share of the visitors, is read, promoted or stopped."""

from collections.abc import Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import pandas as pd

from jollyboat.bundles.bundle import open_bundle
from jollyboat.champions import champion
from jollyboat.experiments.pointer import advising, going
from jollyboat.experiments.readout import read
from jollyboat.gate import gate
from jollyboat.monitoring import inputs
from jollyboat.pages import page
from jollyboat.serving import deployment_checks
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, write_json
from jollyboat.store.errors import UserError
from jollyboat.store.settings import Settings
from jollyboat.training import run

NEEDED = [
    "person_id",
    "anonymous_id",
    "session_id",
    "model_version",
    "answered_at",
    "variant",
    "outcome",
]
NEEDED += ["latency_ms", "probability"]  # columns of the log that a readout is made from
FOR_VISITORS_TO_SAY = (
    "beats_the_baseline",
    "not_worse_than_champion",
    "no_segment_falls",
)  # the gate asks all the rest


def start(store: Store, run_id: str, share: float, settings: Settings) -> str:
    """Give a run's best candidate its share of the visitors; the champion's server follows without a restart."""
    if not 0 < share < 1:
        raise UserError(
            f"A challenger's share is between 0 and 1, not {share:g}: `jollyboat experiment start --share 0.5`."
        )
    if (other := going(store)) is not None:
        raise UserError(
            f"{other['version']} is the challenger already: first `jollyboat experiment stop` or `promote`."
        )
    before = champion.current(store)
    if before is None:
        raise UserError("There is no champion to challenge: `make deploy` makes one.")
    chosen = run.open(run_id, store)
    bundle = deployment_checks.assemble_bundle(chosen, f"Model card · {settings.project.name}")
    if (bundle.owner, bundle.version) == before:
        raise UserError(
            f"{bundle.version} is the champion itself; `make train` on newer data, or choose another with --run."
        )
    facts, _ = deployment_checks.gather_facts(chosen, bundle, before)
    checks = gate.decide(facts, settings.gate.model_dump()).checks
    if failed := [
        check.sentence
        for check in checks
        if check.name not in FOR_VISITORS_TO_SAY and not check.passed
    ]:
        raise UserError("No visitor may meet this challenger. " + " ".join(failed))
    since = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"salt": token_hex(8), "share": share, "owner": bundle.owner, "run": chosen.id}
    write_json(
        store.experiment, told | {"version": bundle.version, "champion": before[1], "since": since}
    )
    return (
        f"{bundle.version} takes {share:.0%} of the visitors of {bundle.owner}; "
        "`make data`, then `jollyboat experiment read` compares them."
    )


def readout(store: Store, settings: Settings) -> dict[str, Any]:
    """The state of the experiment by the newest snapshot, which is then a page and a file below data/reports.

    Answers without an anonymous_id are left out: nobody drew who gives them. UserError where the champion is a new one.
    """
    told = _running(store)
    now = champion.current(store, told["owner"])
    if now != (told["owner"], told["champion"]):
        raise UserError(
            f"The champion is now {now[1] if now else 'none'}, and {told['version']} was to be compared with "
            f"{told['champion']}: `jollyboat experiment stop`, then `jollyboat experiment start` begins another."
        )
    log = inputs.predictions(snapshot.open_latest(store))
    log = log if len(log) else pd.DataFrame(columns=NEEDED)
    began = pd.Timestamp(told["since"]).tz_localize(None)
    own = (
        log["model_version"].isin([told["version"], told["champion"]]) & log["anonymous_id"].notna()
    )
    log = log[own & (pd.to_datetime(log["answered_at"]) >= began)]
    found = {**told, **read(log, told["share"], settings.experiment.model_dump())}
    write_json(store.reports / "experiment.json", found)
    alpha, title = settings.experiment.alpha, f"Experiment · {settings.project.name}"
    page.write(
        store.reports / "experiment.html", "experiment.html", title=title, found=found, alpha=alpha
    )
    return found


def promote(store: Store, settings: Settings, force: str = "") -> str:
    """Make the challenger champion, with the readout as the reason, and end the experiment; forced where not better."""
    found = readout(store, settings)
    is_better = found["verdict"] == "better"
    if not is_better and len(force.split()) < 2:
        raise UserError(
            f'{found["sentence"]} If it is to be champion all the same: `jollyboat experiment promote --force "why"`.'
        )
    bundle = open_bundle(store.bundle(found["owner"], found["version"]))
    change = champion.promote(
        store,
        found["owner"],
        found["version"],
        run=bundle.manifest["run"],
        by=champion.person(),
        why=f"experiment, {found['verdict']}: {found['sentence']}",
        over=found["champion"],
        forced=None if is_better else force,
    )
    stop(store)
    return change.sentence


def stop(store: Store) -> str:
    """End the experiment, whatever its file holds: the champion answers everybody. The last readout stays as it is."""
    try:
        told = _running(store)
    except UserError:
        if not store.experiment.exists():
            raise
        store.experiment.unlink()
        return f"{store.experiment} was no whole experiment and is gone; the champion answers everybody."
    store.experiment.unlink()
    try:
        now = champion.current(store, told["owner"])
        who = (
            f"Champion {now[1]} answers everybody."
            if now
            else "There is no champion: `make deploy` makes one."
        )
    except UserError as refusal:  # it has ended all the same
        who = str(refusal)
    return f"{told['version']} is no longer the challenger. {who}"


def _running(store: Store) -> dict[str, Any]:
    if (told := going(store)) is None:
        raise UserError(
            "There is no experiment: `jollyboat experiment start` begins one with the latest run."
        )
    return told


def tell(found: Mapping[str, Any], store: Store) -> str:
    """The variants, whether a server can ask the challenger, what may be concluded, and where the page is."""
    lines = [f"{'variant':<12}{'visitors':>10}{'known':>10}{'outcomes':>10}{'rate':>9}"]
    for one in found["variants"]:
        rate = "" if one["rate"] is None else f"{one['rate']:.2%}"
        lines.append(
            f"{one['variant']:<12}{one['visitors']:>10,}{one['known']:>10,}{one['outcomes']:>10,}{rate:>9}"
        )
    lines.append(
        f"{found['crossed']:,} visitors crossed over; {found['waiting']:,} outcomes are waited for."
    )
    try:
        with advising(found):
            open_bundle(store.bundle(found["owner"], found["version"]))
    except UserError as refusal:
        lines.append(f"challenger: not taken up by a server. {refusal}")
    return "\n".join(
        [*lines, f"experiment: {found['sentence']}", f"page: {store.reports / 'experiment.html'}"]
    )
