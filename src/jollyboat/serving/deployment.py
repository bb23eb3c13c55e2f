"""The bundle of a run and what the gate reads about it, whatever kind of question the run is of."""

from dataclasses import replace
from typing import Any

from jollyboat.bundles.bundle import Bundle
from jollyboat.champions.champion import why_rolled_back
from jollyboat.gate.gate import Facts
from jollyboat.serving import deployment_checks, ranking_checks
from jollyboat.store import Store, UserError, project_settings
from jollyboat.training.run import Run
from jollyboat.training.targets import judge_targets


def refusal(store: Store, reason: str) -> str:
    """Why nothing may be deployed now, or "". UserError if the reason to force it is none."""
    if reason and len(reason.split()) < 2:
        raise UserError(
            f"FORCE is {reason!r}; it needs a reason of two words or more: "
            'make deploy FORCE="the shop sells other things now".'
        )
    if reason or not store.experiment.exists():
        return ""
    return (
        "An experiment runs, and a new champion would spoil it. End it with `jollyboat experiment "
        'promote` or `jollyboat experiment stop`, or give a reason: make deploy FORCE="...".'
    )


def assemble_bundle(run: Run, title: str) -> Bundle:
    """The bundle of the run's chosen candidate, complete and verified."""
    return _checks_of(run).assemble_bundle(run, title)


def gather_facts(
    run: Run, bundle: Bundle, champion: tuple[str, str] | None
) -> tuple[Facts, dict[str, Any]]:
    """What the gate decides on, and the smoke test's figures."""
    facts, smoke = _checks_of(run).gather_facts(run, bundle, champion)
    facts = replace(facts, rolled_back=why_rolled_back(run.store, bundle.owner, bundle.version))
    targets = project_settings().of(run.store.question).targets
    if targets.is_gate:
        judged = judge_targets(targets, bundle.manifest["metrics"], facts.p99_ms)
        facts = replace(facts, targets=judged)
    return facts, smoke


def _checks_of(run: Run):
    return ranking_checks if run.is_ranking else deployment_checks
