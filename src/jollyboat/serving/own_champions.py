"""The champions of single tenants: each has its own model where that is significantly better.

They are decided after the shared champion, tenant by tenant: what goes wrong with one leaves that
tenant as it was, and holds up no other.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from jollyboat.bundles.bundle import Bundle, Parts, assemble
from jollyboat.bundles.model import TOLERANCE, LoadedModel, answer_samples
from jollyboat.bundles.queries import FeatureQueries
from jollyboat.champions import champion, policy
from jollyboat.pages.page import render
from jollyboat.pages.terminal import format_count, join_lines
from jollyboat.serving import deployment_checks as checks
from jollyboat.snapshots import snapshot as snapshots
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, read_json, words_of, write_json
from jollyboat.training.estimators import Model
from jollyboat.training.own_models import FITTED
from jollyboat.training.persistence import load
from jollyboat.training.run import Run

OWN, SHARED_MODEL, KEPT, NONE = "own", "shared", "kept", "none"
ROWS_CHECKED, SMOKE_TRIES = 20, 3


@dataclass(frozen=True)
class Decision:
    """Which model answers a tenant, and why: `own`, `shared`, `kept` as it was, or `none`."""

    model: str
    reason: str


def deploy_tenants(run: Run, *, by: str, keep: int) -> dict[str, Decision]:
    """Decide each tenant's model by the run, and move the pointers; returns the decisions.

    `keep` is the number of versions to keep of each tenant's own models. The decisions are also
    written to data/models/tenants.json.
    """
    store, results = run.store, run.own_models
    policies, before = policy.read_policies(store), champion.own(store)
    held = snapshots.open(run.snapshot_id, store).held if results else {}
    decisions = {
        tenant: decide(result, policies.get(tenant), tenant in before, tenant in held)
        for tenant, result in sorted(results.items())
    }
    new = [tenant for tenant, one in decisions.items() if one.model == OWN]
    for tenant, bundle in _assemble(run, new, decisions).items():
        if isinstance(bundle, Exception):
            decisions[tenant] = _failed(bundle, tenant in before)
            continue
        why = decisions[tenant].reason
        try:
            if rolled_back := champion.why_rolled_back(store, tenant, bundle.version):
                decisions[tenant] = Decision(KEPT, f"kept: its new model was {rolled_back}")
                continue
            champion.promote(store, tenant, bundle.version, run=run.id, by=by, why=why)
            champion.prune(store, tenant, keep)
        except (UserError, OSError) as error:
            decisions[tenant] = _failed(error, tenant in before)
    for tenant in set(before).intersection(decisions):
        if decisions[tenant].model == SHARED_MODEL:
            champion.use_shared(store, tenant, by=by, why=decisions[tenant].reason)
    content = {tenant: vars(one) for tenant, one in decisions.items()}
    if results:
        write_json(store.tenant_decisions, {"run": run.id, "decisions": content})
    return decisions


def read_decisions(store: Store) -> dict[str, dict[str, str]]:
    """The last decision about each tenant: `model` and `reason`."""
    return read_json(store.tenant_decisions, default={"decisions": {}}, decisions=dict)["decisions"]


def decide(
    result: Mapping[str, Any], decided: Mapping | None, has_own: bool, is_held: bool = False
) -> Decision:
    """The model of a tenant by its result, a person's decision about it, and what it has now.

    A tenant whose data are held back keeps its model. A tenant that has a model of its own keeps
    one as long as the new one leads, significantly or not: else it would change from run to run.
    """
    if decided:
        model = SHARED_MODEL if decided["state"] == policy.PINNED else KEPT
        return Decision(model, f"{model}: {decided['state']} by {decided['by']}, {decided['why']}")
    if is_held and has_own:
        return Decision(KEPT, "kept: its newest data are held back")
    if result["status"] != FITTED:
        reason = result["reason"]
        if has_own:
            return Decision(KEPT, f"kept: {reason}")
        model = NONE if result["is_private"] else SHARED_MODEL
        return Decision(model, f"{model}: {reason}")
    if result["is_private"]:
        return Decision(OWN, "own: private")
    lead = result.get("lead", {})
    if lead.get("low") is None:
        model = KEPT if has_own else SHARED_MODEL
        outcomes = format_count(result["holdout_outcomes"], "outcome")
        rows = format_count(result["holdout_rows"], "row")
        return Decision(model, f"{model}: its holdout has {outcomes} in {rows}")
    figure = "{value:+.2f} ({low:+.2f} to {high:+.2f})".format(**lead).replace("-", "−")
    if result["is_better"]:
        return Decision(OWN, f"own: {figure}")
    if has_own and lead["value"] > 0:
        return Decision(OWN, f"own: stays ahead, {figure}")
    return Decision(SHARED_MODEL, f"shared: own is not significantly better, {figure}")


def format_summary(decisions: Mapping[str, Decision]) -> str:
    """The failures first, then how many tenants have which model; empty without decisions."""
    if not decisions:
        return ""
    failed = [f"{tenant}: {one.reason}" for tenant, one in decisions.items() if _is_failure(one)]
    counts = Counter(one.model for one in decisions.values())
    words = {
        OWN: "their own model",
        SHARED_MODEL: "the shared model",
        KEPT: "the model they had",
        NONE: "no model",
    }
    texts = [f"{counts[model]} {words[model]}" for model in words if counts[model]]
    total = format_count(len(decisions), "tenant")
    return join_lines([*failed, f"tenants: of {total}, {', '.join(texts)} (jollyboat tenants)"])


def _is_failure(decision: Decision) -> bool:
    return "failed" in decision.reason or decision.model == NONE


def _failed(error: Exception, has_own: bool) -> Decision:
    sentence = str(error).partition("\n")[0]
    model = KEPT if has_own else SHARED_MODEL
    return Decision(model, f"{model}: its new bundle failed: {sentence:.200}")


def _assemble(
    run: Run, tenants: Sequence[str], decisions: Mapping[str, Decision]
) -> dict[str, Bundle | Exception]:
    """The checked bundle of each tenant's own model, or why it failed."""
    if not tenants:
        return {}
    snapshot = snapshots.open(run.snapshot_id, run.store)
    models, bundles = _load_models(run, tenants)
    for tenant, parts in _parts(run, snapshot, models, decisions):
        try:
            is_failure = isinstance(parts, Exception)
            bundles[tenant] = parts if is_failure else assemble(parts, run.store, tenant)
        except (UserError, OSError) as error:
            bundles[tenant] = error
    whole = {tenant: one for tenant, one in bundles.items() if isinstance(one, Bundle)}
    bundles |= _check_in_process(run, snapshot, whole)
    return bundles | _smoke(run, bundles)


def _load_models(
    run: Run, tenants: Sequence[str]
) -> tuple[dict[str, Model], dict[str, Bundle | Exception]]:
    """The tenants' saved models, and why one cannot be loaded."""
    models, troubles = {}, {}
    for tenant in tenants:
        try:
            models[tenant] = load(run.own_model(tenant))
        except Exception as error:  # a file that is broken raises anything
            troubles[tenant] = UserError(f"its saved model cannot be loaded ({error!r:.100})")
    return models, troubles


def _parts(
    run: Run,
    snapshot: Snapshot,
    models: Mapping[str, Model],
    decisions: Mapping[str, Decision],
) -> Iterator[tuple[str, Parts | Exception]]:
    lookups, question = checks.lookups_of(run, snapshot), checks.definition_of(snapshot)
    requests = {
        tenant: checks.choose_request(snapshot, run.feature_sql, lookups, tenant)
        for tenant in models
    }
    settings, metrics, results = run.settings, run.metrics, run.own_models
    threshold, shared = (
        metrics["threshold"],
        checks.parts_of(run, snapshot, lookups, question, {}, ""),
    )
    samples = answer_samples(models, run.feature_sql, lookups, threshold, requests, question)
    for tenant, sample in samples.items():
        if isinstance(sample, Exception):
            yield tenant, sample
            continue
        result = results[tenant]
        value = result.get("average_precision", {}).get("own")
        about = {"settings": settings, "metrics": metrics, "result": result}
        card = _render_card(run, tenant, decisions[tenant].reason, about)
        parts = replace(
            shared,
            sample=sample,
            card=card,
            candidate=result["candidate"],
            model=run.own_model(tenant),
            schema=models[tenant].schema.to_dict(),
            metrics={"average_precision": {"value": value, "low": None, "high": None}},
            threshold=threshold,
            first_point=min(snapshot.prediction_points),
            outcome=snapshot.outcome,
        )
        yield tenant, parts


def _render_card(run: Run, tenant: str, sentence: str, content: Mapping) -> str:
    about = {"about": words_of(run.store), "to_data": checks.to_data(run.store, tenant)}
    names = {"title": f"Model card · {tenant}", "tenant": tenant, "sentence": sentence}
    return render("tenant_card.html", run=run, **names, **about, **content)


def _check_in_process(
    run: Run, snapshot: Snapshot, bundles: Mapping[str, Bundle]
) -> dict[str, Exception]:
    """Why a bundle does not answer as its model did in training, or fails a behavioural case."""
    expected = run.own_predictions()
    expected = expected[expected["tenant_id"].isin(bundles)]
    expected = expected.groupby("tenant_id").head(ROWS_CHECKED)
    keys = expected[checks.KEYS]
    features = snapshot.rows_of(snapshot.features, expected).merge(expected, on=checks.KEYS)
    sessions: dict[str, list] = {}
    for session in checks.sessions_of(snapshot, keys):
        sessions.setdefault(session[0], []).append(session)
    troubles: dict[str, Exception] = {}
    queries = FeatureQueries()
    judge = checks.behaviour_of(snapshot)
    with closing(queries):
        for tenant, bundle in bundles.items():
            try:
                rows = features[features["tenant_id"] == tenant]
                _refuse_other_answers(bundle, rows)
                model = LoadedModel(bundle, queries=queries)
                failed = [each for each in judge(model, sessions[tenant]) if not each.passed]
                if failed:
                    raise UserError(f"it fails a behavioural case: {failed[0].sentence}")
            except Exception as error:  # a candidate of the team may raise anything
                troubles[tenant] = error
    return troubles


def _refuse_other_answers(bundle: Bundle, rows: pd.DataFrame) -> None:
    probability = load(bundle.model).predict_proba(rows)
    if (abs(probability - rows["probability"].to_numpy()) > TOLERANCE).any():
        raise UserError("it does not answer as in training: run `make train` again")


def _smoke(run: Run, bundles: Mapping[str, Bundle | Exception]) -> dict[str, Exception]:
    """The failures of one bundle on a real server; the others share its SQL and its code.

    A bundle that fails is set aside and the next one is tried; if all do, none is promoted.
    """
    troubles: dict[str, Exception] = {}
    before = champion.own(run.store)
    new = [
        tenant
        for tenant, one in bundles.items()
        if isinstance(one, Bundle) and before.get(tenant) != one.version
    ]
    for tenant in new[:SMOKE_TRIES]:
        figures, sentence = checks.run_smoke(bundles[tenant])
        if figures:
            return troubles
        troubles[tenant] = UserError(sentence)
    sentence = f"the bundles of {', '.join(troubles)} failed on a server, so no other is promoted"
    return {tenant: troubles.get(tenant, UserError(sentence)) for tenant in new}
