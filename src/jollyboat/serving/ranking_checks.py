"""The deployment checks of a ranking: its bundle's answers, and its lead over the champion."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import SHARED, Bundle, assemble, open_bundle
from jollyboat.bundles.ranking_model import RankingModel, make_sample
from jollyboat.gate.gate import Facts
from jollyboat.ranking import evaluate, rankers
from jollyboat.ranking.learner import MRR, pair_query
from jollyboat.ranking.pairs import KEYS
from jollyboat.serving.deployment_checks import (
    common_values,
    definition_of,
    differ,
    last_learned,
    lookups_of,
    parts_of,
    render_card,
    run_smoke,
    sample_request,
    sessions_of,
)
from jollyboat.snapshots import snapshot as snapshots
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import UserError, words_of
from jollyboat.training.run import Run

POINTS_COMPARED = 100
SAMPLE_ITEMS, SAMPLE_KEYS, SAMPLE_COUNT = 10, 2, 5
LONG_AGO = "1970-01-01"  # so that a sample's rows are valid at its events
MEASURE = f"MRR@{evaluate.COUNT}"


def assemble_bundle(run: Run, title: str) -> Bundle:
    """The bundle of the run's chosen ranker, complete and verified."""
    snapshot = snapshots.open(run.snapshot_id, run.store)
    lookups, question = lookups_of(run, snapshot), definition_of(snapshot)
    request, rows = _choose_sample(snapshot, list(lookups))
    model = run.model(run.chosen)
    sample = make_sample(model, run.feature_sql, lookups, question, request, rows)
    card = render_card(run, "rank_card.html", title)
    return assemble(parts_of(run, snapshot, lookups, question, sample, card), run.store, SHARED)


def gather_facts(
    run: Run, bundle: Bundle, champion: tuple[str, str] | None
) -> tuple[Facts, dict[str, Any]]:
    """What the gate decides on, and the smoke test's figures."""
    figures, smoke_sentence = run_smoke(bundle)
    compared = against_champion(champion, run) if champion else {}
    sizes = [path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()]
    facts = Facts(
        candidate=run.chosen,
        is_ranking=True,
        measure=MEASURE,
        baseline=rankers.POPULARITY,
        champion=champion and champion[1],
        rows=words_of(run.store).rows,
        positives=run.metrics["split"]["holdout"]["rows"],
        against_baseline=run.metrics["candidates"][run.chosen].get("against_baseline"),
        **compared,
        differing=count_differences(run, bundle),
        smoke_passed=figures is not None,
        smoke_sentence=smoke_sentence,
        p99_ms=figures and figures["p99_ms"],
        memory_mb=figures and figures["memory_mb"],
        bundle_mb=sum(sizes) / 1e6,
        training_seconds=run.cost.get("seconds"),
    )
    return facts, figures or {}


def count_differences(run: Run, bundle: Bundle) -> dict[str, int]:
    """By feature, how many pairs of held-out points differ between bundle and snapshot.

    Under `order` how many places have another item; without what never differs.
    """
    snapshot, points = snapshots.open(run.snapshot_id, run.store), run.predictions()[KEYS]
    points = points.sample(min(POINTS_COMPARED, len(points)), random_state=0).assign(item="")
    with closing(pair_query(snapshot, bundle.feature_sql)) as query:
        expected = query.run(points)
    lookup_files = {name: snapshot.files(name) for name in bundle.lookups}
    with closing(RankingModel(bundle, lookup_files)) as model:
        actual = model.pairs(sessions_of(snapshot, expected.points[KEYS]))
        first, second = (model.rank(pairs) for pairs in (expected.frame, actual))
    both = expected.frame.merge(actual, on=["point", "item"], how="outer", suffixes=("", " online"))
    names = [name for name in expected.features.columns if name in actual]
    counts = {
        name: int(differ(both[name], both[f"{name} online"]).sum())
        for name in [*names, "because_of"]
    }
    places = first.merge(second, on=["point", "place"], how="outer")
    counts["order"] = int((places["item_x"] != places["item_y"]).sum())
    return {name: count for name, count in counts.items() if count}


def against_champion(champion: tuple[str, str], run: Run) -> dict[str, Any]:
    """The lead in MRR over the champion on points that are new to both, as fields of Facts."""
    try:
        theirs, seen_until = _rank_holdout(champion, run)
    except Exception as error:  # a champion whose code has changed may raise anything
        reason = str(error).partition("\n")[0]
        return {
            "champion_silence": f"Champion {champion[1]} cannot rank this holdout ({reason}), so "
            'it may be better. Where that is intended: `make deploy FORCE="the reason"`.'
        }
    both = run.predictions().merge(theirs, on=KEYS)
    settings = run.settings
    lead = evaluate.lead(
        both[run.chosen].to_numpy(),
        both["champion"].to_numpy(),
        evaluate.number_sessions(both),
        settings["evaluate"]["resamples"],
        settings["train"]["seed"],
    )
    return {"against_champion": lead, "is_newer": bool(seen_until < last_learned(run))}


def _rank_holdout(champion: tuple[str, str], run: Run) -> tuple[pd.DataFrame, pd.Timestamp]:
    """The champion's reciprocal ranks on points that are new to it, and its last moment."""
    bundle, points = open_bundle(run.store.bundle(*champion)), run.predictions()
    seen_until = last_learned(Run(run.store, bundle.manifest["run"]))
    points = points.loc[~(points["point_at"] <= seen_until), [*KEYS, "item"]]
    if points.empty:
        raise UserError("it has learned from all of it")
    snapshot = snapshots.open(run.snapshot_id, run.store)
    with closing(pair_query(snapshot, bundle.feature_sql)) as query:
        pairs = query.run(points)
    score = rankers.load(bundle.model).score(pairs.frame)
    return pairs.points[KEYS].assign(champion=evaluate.gains(pairs, score)[MRR]), seen_until


def _choose_sample(
    snapshot: Snapshot, tables: list[str]
) -> tuple[dict[str, Any], Mapping[str, list[dict[str, Any]]]]:
    """A made-up session that views a tenant's popular items, and rows of the lookups about them."""
    newest = {name: snapshot.relation(name).filter("valid_to is null") for name in tables}
    popular = newest[f"lookup_{snapshot.store.question}_popular"].order("view_count desc, key")
    tenant_id = popular.limit(1).project("tenant_id").fetchone()[0]
    of_tenant = {name: each.filter(f"tenant_id = '{tenant_id}'") for name, each in newest.items()}
    keys = popular.filter(f"tenant_id = '{tenant_id}'").limit(SAMPLE_ITEMS).df()["key"].tolist()
    rows = {
        name: _plain_rows(each.df(), keys if "popular" in name else keys[:SAMPLE_KEYS])
        for name, each in of_tenant.items()
    }
    definition = snapshot.definition
    shape = {"tenant_id": tenant_id, "count": SAMPLE_COUNT}
    request = sample_request(common_values(snapshot)) | shape
    for number, event in enumerate(request["events"]):
        event["event_type"] = definition["item_event"]
        event[definition["item"]] = keys[number % min(SAMPLE_KEYS, len(keys))]
    return request, rows


def _plain_rows(rows: pd.DataFrame, keys: list[str]) -> list[dict[str, Any]]:
    rows = rows[rows["key"].isin(keys)].sort_values("key").drop(columns="valid_to")
    return [
        {name: _plain(value) for name, value in row.items()} | {"valid_from": LONG_AGO}
        for row in rows.to_dict("records")
    ]


def _plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, np.ndarray | list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value
