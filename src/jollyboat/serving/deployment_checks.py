"""The trial of a candidate before the gate: its bundle, asked as a client would ask, and beside the champion."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import SHARED, Bundle, Parts, assemble, open_bundle
from jollyboat.bundles.model import TOLERANCE, LoadedModel, answer_sample
from jollyboat.gate.behaviour import judge, read_cases
from jollyboat.gate.gate import Facts
from jollyboat.pages.page import render
from jollyboat.serving import batch
from jollyboat.serving.ask import smoke
from jollyboat.snapshots import snapshot as snapshots
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store.errors import UserError
from jollyboat.training.evaluate import difference
from jollyboat.training.run import Run
from jollyboat.training.segments import by_segment, segment_columns
from jollyboat.training.split import Part
from jollyboat.training.training import SEGMENT_RESAMPLES

COMMON_COLUMNS = ("event_type", "page", "device", "channel", "country", "category", "currency")
SESSIONS_COMPARED = 200
SAMPLE_START = datetime(2026, 1, 5, 10, 0)


def assemble_bundle(run: Run, title: str) -> Bundle:
    """The bundle of the run's chosen candidate, whole and verified."""
    metrics = run.metrics
    chosen, snapshot = run.chosen, snapshots.open(run.snapshot_id, run.store)
    schema = run.schema
    lookups = {name: snapshot.columns(name) for name in snapshot.lookups}
    request = sample_request(_common_values(snapshot))
    try:
        sample = answer_sample(
            run.model(chosen), run.feature_sql, schema, lookups, metrics["threshold"], request
        )
    except duckdb.Error as error:
        raise UserError(
            f"A server cannot compute the features of run {run.id} ({str(error).partition(chr(10))[0]}): they may come "
            "from events_at_point and lookups only. Mend dbt's features_at_point, then `make data train`."
        ) from error
    card = render(
        "card.html", title=title, run=run, settings=run.settings, metrics=metrics, chosen=chosen
    )
    parts = Parts(
        candidate=chosen,
        model=run.model(chosen),
        feature_sql=run.feature_sql,
        schema=schema,
        lookups=lookups,
        sample=sample,
        card=card,
        threshold=metrics["threshold"],
        run=run.id,
        snapshot=run.snapshot_id,
        code=run.settings["code"],
        metrics=metrics["candidates"][chosen]["holdout"],
    )
    return assemble(parts, run.store, SHARED)


def gather_facts(
    run: Run, bundle: Bundle, champion: tuple[str, str] | None
) -> tuple[Facts, dict[str, Any]]:
    """What the gate decides on, and the smoke test's figures."""
    metrics = run.metrics
    one = metrics["candidates"][run.chosen]
    figures, smoke_sentence = _smoke(bundle)
    against, theirs, silence = against_champion(champion, run) if champion else (None, None, "")
    misbehaving, differing = try_out(run, bundle)
    facts = Facts(
        candidate=run.chosen,
        champion=champion and champion[1],
        against_baseline=one.get("against_baseline"),
        against_champion=against,
        champion_silence=silence,
        segments=one["segments"],
        champion_segments=theirs,
        label_rate=metrics["split"]["holdout"]["label_rate"],
        calibration_error=one["holdout"]["calibration_error"]["value"],
        smoke_passed=figures is not None,
        smoke_sentence=smoke_sentence,
        p99_ms=figures and figures["p99_ms"],
        memory_mb=figures and figures["memory_mb"],
        bundle_mb=sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file())
        / 1e6,
        training_seconds=run.cost.get("seconds"),
        calibration_chance=one.get("calibration_chance"),
        misbehaving=misbehaving,
        leaks=metrics.get("leaks"),
        roc_auc=one["holdout"]["roc_auc"]["value"],
        differing=differing,
    )
    return facts, figures or {}


def try_out(run: Run, bundle: Bundle) -> tuple[list[str], dict[str, int]]:
    """What the bundle does with held-out sessions as a server gets them.

    A sentence for each behavioural case that failed, and for each feature (and the probability) how many values are
    not those of the snapshot; what differs in none is left out.
    """
    snapshot = snapshots.open(run.snapshot_id, run.store)
    predictions = run.predictions()
    asked = predictions.sample(min(SESSIONS_COMPARED, len(predictions)), random_state=0)
    sessions = _sessions(snapshot, asked)
    keys = asked[["tenant_id", "entity_id"]]
    probability = predictions.rename(columns={run.chosen: "probability"})[[*keys, "probability"]]
    expected = keys.merge(snapshot.frame("session_features"), how="left").merge(
        probability, how="left"
    )
    types = {kind for (kind,) in snapshot.relation("events").aggregate("event_type").fetchall()}
    unknowing = LoadedModel(bundle)  # of visitors and products: what it says may rest on no id
    try:
        verdicts = judge(
            read_cases(),
            lambda asked: [each.probability for each in unknowing.predict(asked)],
            sessions,
            types,
        )
    finally:
        unknowing.close()
    model = LoadedModel(bundle, {name: snapshot.files(name) for name in bundle.lookups})
    try:
        found = model.features(sessions)
        found = found.assign(probability=model.score(found))
    finally:
        model.close()
    columns = [*(feature["name"] for feature in bundle.schema["features"]), "probability"]
    counts = {name: int((~_same(expected[name], found[name])).sum()) for name in columns}
    return [each.sentence for each in verdicts if not each.passed], {
        name: n for name, n in counts.items() if n
    }


def _same(expected: pd.Series, found: pd.Series) -> np.ndarray:
    absent = expected.isna().to_numpy() & found.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(expected) and pd.api.types.is_numeric_dtype(found):
        a, b = (values.to_numpy(dtype=float, na_value=np.nan) for values in (expected, found))
        return absent | (np.abs(a - b) <= TOLERANCE)
    return absent | (expected.astype(object).to_numpy() == found.astype(object).to_numpy())


def _sessions(snapshot: Snapshot, asked: pd.DataFrame) -> list[tuple[str, str, list[dict]]]:
    """The events up to the point of each session asked for, as a client would send them, in the order of `asked`."""
    entities = asked[["tenant_id", "entity_id"]]
    events = snapshot.rows_of("events_at_point", entities)
    by_session = dict(iter(events.groupby(["tenant_id", "entity_id"], sort=False)))
    unsent = ["tenant_id", "entity_id", "point_at", "event_number"]
    return [
        (tenant, entity, by_session[tenant, entity].drop(columns=unsent).to_dict("records"))
        for tenant, entity in entities.itertuples(index=False)
    ]


def against_champion(
    champion: tuple[str, str], run: Run
) -> tuple[dict | None, list[dict] | None, str]:
    """The candidate's lead over the champion on the run's holdout, in all and by segment; None, and why, where the
    champion cannot be asked.
    """
    predictions, snapshot = run.predictions(), snapshots.open(run.snapshot_id, run.store)
    try:
        bundle = open_bundle(run.store.bundle(*champion))
        LoadedModel(
            bundle
        ).close()  # refuses where changed code makes it answer otherwise than when it was made
        if learned := Run(run.store, bundle.manifest["run"]).metrics.get("split"):
            # No row that it learned from: after a change of [split] the holdout may begin before its own.
            predictions = predictions[
                predictions["point_at"] > pd.Timestamp(learned["validation"]["to"])
            ]
        if predictions["label"].nunique() < 2:
            raise UserError("it has learned from nearly all of it")
        theirs = batch.predict(bundle, snapshot, predictions)
    except (
        Exception
    ) as error:  # a candidate whose code has changed raises what it likes over what it saved before
        why = str(error).partition("\n")[0]
        silence = f"Champion {champion[1]} cannot be asked about this holdout ({why}), so it may be better. "
        silence += 'Where that is meant, as after a change of what the logs hold: `make deploy FORCE="why"`.'
        return None, None, silence
    entity = ["tenant_id", "entity_id"]
    both = predictions.merge(theirs[[*entity, "probability"]], on=entity)
    features = snapshot.rows_of("session_features", both[entity]).drop(
        columns=["point_at", "label", "status"]
    )
    rows = both[[*entity, "point_at", "label"]].merge(features, on=entity)
    settings, label = run.settings, both["label"].to_numpy()
    asked = both[run.chosen].to_numpy(), both["probability"].to_numpy()
    groups, seed = (
        both["person"].to_numpy() if "person" in both else None,
        settings["train"]["seed"],
    )
    lead = difference(label, *asked, settings["evaluate"]["resamples"], seed, groups)
    segments = segment_columns(Part.of(rows), settings["evaluate"]["segments"])
    return lead, by_segment(segments, label, *asked, SEGMENT_RESAMPLES, seed, groups), ""


def _smoke(bundle: Bundle) -> tuple[dict[str, Any] | None, str]:
    try:
        figures = smoke(bundle.folder)
    except UserError as refusal:
        return None, str(refusal)
    return (
        figures,
        f"The server was ready in {figures['start_seconds']:.1f} s and answered its sample as expected.",
    )


def _common_values(snapshot: Snapshot) -> dict[str, list[str]]:
    """The most frequent values of the columns that name no one, for a made-up request."""
    events = snapshot.relation("events")
    return {
        name: [
            value
            for (value,) in events.filter(f"{name} is not null")
            .aggregate(f"{name}, count(*) as n")
            .order(f"n desc, {name}")
            .limit(4)
            .project(name)
            .fetchall()
        ]
        for name in COMMON_COLUMNS
    }


def sample_request(values: Mapping[str, Sequence[str]], event_count: int = 6) -> dict[str, Any]:
    """A body for POST /predict; its events go through the values given of `event_type`, `page`, `device` and others."""
    kinds = list(values.get("event_type", ())) or ["page_view"]
    others = {name: list(known) for name, known in values.items() if name != "event_type" and known}
    # One visitor has one device: what does not change within a session keeps its first value.
    changing = {name for name in others if name in ("page", "category", "query")}
    events = [
        {
            "event_id": f"sample-{number}",
            "event_type": kinds[number % len(kinds)],
            "occurred_at": (SAMPLE_START + timedelta(seconds=20 * number)).isoformat() + "Z",
            "anonymous_id": "sample-visitor",
            "product_id": f"sample-product-{number % 2}",
            "price": 10.0 + number,
            **{
                name: known[number % len(known) if name in changing else 0]
                for name, known in others.items()
            },
        }
        for number in range(event_count)
    ]
    return {"tenant_id": "sample", "events": events}
