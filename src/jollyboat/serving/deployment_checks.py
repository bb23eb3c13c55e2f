"""The deployment checks of a candidate: its bundle's answers, and its lead over the champion."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import SAMPLE_TENANT, SHARED, Bundle, Parts, assemble, open_bundle
from jollyboat.bundles.features import FeatureQuery, rows_of_request
from jollyboat.bundles.model import TOLERANCE, LoadedModel, answer_sample
from jollyboat.gate.behaviour import Verdict, cases_of, judge, read_cases
from jollyboat.gate.gate import Facts
from jollyboat.gate.tenant_tail import compare_tenants
from jollyboat.pages.page import render
from jollyboat.serving import batch_scores
from jollyboat.serving.smoke_test import run_smoke_test
from jollyboat.snapshots import snapshot as snapshots
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, project_settings, quoted, words_of
from jollyboat.training.estimators import BASELINE
from jollyboat.training.evaluate import difference
from jollyboat.training.run import Run
from jollyboat.training.segments import by_segment, segment_columns
from jollyboat.training.split import Part
from jollyboat.training.training import SEGMENT_RESAMPLES

KEYS = ["tenant_id", "entity_id", "point_at"]
COMMON_COLUMNS = ("event_type", "page", "device", "channel", "country", "category", "currency")
CHANGING_COLUMNS = ("page", "category", "query")  # within the session of one visitor
SESSIONS_COMPARED = 200
SAMPLE_START = datetime(2026, 1, 5, 10, 0)
# Of a question's definition: what a server has to know.
KNOWN = ("entity", "history", "history_days", "horizon_days", "asked_at", "item", "item_event")


def assemble_bundle(run: Run, title: str) -> Bundle:
    """The bundle of the run's chosen candidate, complete and verified."""
    snapshot, threshold = snapshots.open(run.snapshot_id, run.store), run.metrics["threshold"]
    lookups, question = lookups_of(run, snapshot), definition_of(snapshot)
    try:
        sample = answer_sample(
            run.model(run.chosen),
            run.feature_sql,
            lookups,
            threshold,
            choose_request(snapshot, run.feature_sql, lookups),
            question,
        )
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        lookup = "A lookup needs `published_by` in its meta: see `jollyboat docs add-a-lookup`. "
        raise UserError(
            f"A server cannot compute the features or the outcome of run {run.id} ({reason}): "
            "they may come from events_at_point and lookups only. "
            f"{lookup if 'lookup_' in reason else ''}"
            "Fix dbt's features_at_point, or vars: outcome, then `make data train`."
        ) from error
    parts = parts_of(run, snapshot, lookups, question, sample, render_card(run, "card.html", title))
    return assemble(
        replace(
            parts,
            threshold=threshold,
            first_point=min(snapshot.prediction_points),
            outcome=snapshot.outcome,
        ),
        run.store,
        SHARED,
    )


def lookups_of(run: Run, snapshot: Snapshot) -> dict[str, dict[str, str]]:
    """The lookups that the run's SQL reads, each with its columns."""
    return {
        name: snapshot.columns(name)
        for name in snapshot.lookups
        if re.search(rf"\b{name}\b", run.feature_sql)
    }


def definition_of(snapshot: Snapshot) -> dict[str, Any]:
    """What a server has to know of another question than the first; empty for the first."""
    parts = {name: snapshot.definition[name] for name in KNOWN if name in snapshot.definition}
    return {"name": snapshot.store.question} | parts if snapshot.definition else {}


def render_card(run: Run, template: str, title: str) -> str:
    """The model card of the run's chosen candidate."""
    return render(
        template,
        to_data=to_data(run.store, SHARED),
        to_run=os.path.relpath(run.folder / "report.html", run.store.bundle(SHARED, "version")),
        owner=project_settings().project.owner,
        about=words_of(run.store),
        title=title,
        run=run,
        settings=run.settings,
        metrics=run.metrics,
        chosen=run.chosen,
    )


def to_data(store: Store, owner: str) -> str:
    """The way from a page in a bundle of this owner to the data folder."""
    return os.path.relpath(store.root, store.bundle(owner, "version")) + "/"


def parts_of(
    run: Run, snapshot: Snapshot, lookups: Mapping, question: Mapping, sample: Mapping, card: str
) -> Parts:
    """What the bundles of all kinds of questions have."""
    return Parts(
        candidate=run.chosen,
        model=run.model(run.chosen),
        feature_sql=run.feature_sql,
        schema=run.schema,
        lookups=lookups,
        sample=sample,
        card=card,
        threshold=None,
        run=run.id,
        snapshot=run.snapshot_id,
        code=run.settings["code"],
        metrics=run.metrics["candidates"][run.chosen]["holdout"],
        personal_fields=snapshot.personal_fields,
        question=question,
        vocabulary=snapshot.vocabulary,
    )


def gather_facts(
    run: Run, bundle: Bundle, champion: tuple[str, str] | None
) -> tuple[Facts, dict[str, Any]]:
    """What the gate decides on, and the smoke test's figures."""
    metrics = run.metrics
    chosen, holdout = metrics["candidates"][run.chosen], metrics["split"]["holdout"]
    figures, smoke_sentence = run_smoke(bundle)
    compared = against_champion(champion, run) if champion else Comparison()
    verdicts, differing = check_answers(run, bundle)
    sizes = [path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()]
    facts = Facts(
        candidate=run.chosen,
        rows=words_of(run.store).rows,
        champion=champion and champion[1],
        against_baseline=chosen.get("against_baseline"),
        positives=holdout["positives"],
        negatives=holdout["rows"] - holdout["positives"],
        against_champion=compared.lead,
        is_newer=compared.is_newer,
        champion_silence=compared.silence,
        segments=chosen["segments"],
        champion_segments=compared.segments,
        tenants=_against_baseline(run) if compared.tenants is None else compared.tenants,
        tenants_against="baseline" if compared.tenants is None else "champion",
        label_rate=holdout["label_rate"],
        calibration_error=chosen["holdout"]["calibration_error"]["value"],
        smoke_passed=figures is not None,
        smoke_sentence=smoke_sentence,
        p99_ms=figures and figures["p99_ms"],
        memory_mb=figures and figures["memory_mb"],
        bundle_mb=sum(sizes) / 1e6,
        training_seconds=run.cost.get("seconds"),
        calibration_chance=chosen.get("calibration_chance"),
        misbehaving=[verdict.sentence for verdict in verdicts if not verdict.passed],
        behaving=sum(verdict.passed and not verdict.is_skipped for verdict in verdicts),
        skipped_cases=[verdict.sentence for verdict in verdicts if verdict.is_skipped],
        cases=[
            {key: getattr(verdict, key) for key in ("name", "passed", "figure", "limit")}
            for verdict in verdicts
        ],
        leaks=metrics.get("leaks"),
        roc_auc=chosen["holdout"]["roc_auc"]["value"],
        differing=differing,
    )
    return facts, figures or {}


def check_answers(run: Run, bundle: Bundle) -> tuple[list[Verdict], dict[str, int]]:
    """How the bundle answers held-out sessions.

    A verdict on each behavioural case; for each feature and the probability, how many values
    differ from the snapshot's, without those that never differ.
    """
    snapshot, predictions = snapshots.open(run.snapshot_id, run.store), run.predictions()
    size = min(SESSIONS_COMPARED, len(predictions))
    compared = predictions.sample(size, random_state=0)[KEYS]
    sessions = sessions_of(snapshot, compared)
    # Without lookups no answer depends on an id.
    with closing(LoadedModel(bundle)) as model:
        verdicts = behaviour_of(snapshot)(model, sessions)
    probability = predictions.rename(columns={run.chosen: "probability"})[[*KEYS, "probability"]]
    expected = compared.merge(snapshot.rows_of(snapshot.features, compared), how="left")
    expected = expected.merge(probability, how="left")
    lookup_files = {name: snapshot.files(name) for name in bundle.lookups}
    with closing(LoadedModel(bundle, lookup_files)) as model:
        actual = model.features(sessions)
        actual = actual.assign(probability=model.score(actual))
    names = [*(feature["name"] for feature in bundle.schema["features"]), "probability"]
    counts = {name: int(differ(expected[name], actual[name]).sum()) for name in names}
    return verdicts, {name: count for name, count in counts.items() if count}


def behaviour_of(snapshot: Snapshot) -> Callable[[LoadedModel, list], list[Verdict]]:
    """A function of a model and held-out sessions: a verdict on each behavioural case."""
    events = snapshot.relation("events")
    cases = read_cases(cases_of(snapshot.store.question))

    @cache
    def values(column: str) -> set[str]:
        if column not in events.columns:
            return set()
        return {str(value) for (value,) in events.aggregate(f'"{column}"').fetchall()}

    def judge_model(model: LoadedModel, sessions: list) -> list[Verdict]:
        def predict(sessions: list) -> list[float]:
            return [prediction.probability for prediction in model.predict(sessions)]

        return judge(cases, predict, sessions, values)

    return judge_model


def differ(expected: pd.Series, actual: pd.Series) -> np.ndarray:
    """Which values of two columns are not the same, two unknown ones being so."""
    both_missing = expected.isna().to_numpy() & actual.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(expected) and pd.api.types.is_numeric_dtype(actual):
        a, b = (values.to_numpy(dtype=float, na_value=np.nan) for values in (expected, actual))
        return ~(both_missing | (np.abs(a - b) <= TOLERANCE))
    return ~both_missing & (expected.astype(object).to_numpy() != actual.astype(object).to_numpy())


def sessions_of(snapshot: Snapshot, keys: pd.DataFrame) -> list[tuple]:
    """The events up to each point as a client sends them, in the order of `keys`."""
    events = snapshot.rows_of(snapshot.events_at_point, keys)
    by_point = dict(iter(events.sort_values("event_number").groupby(KEYS, sort=False)))
    unsent = [*KEYS, "event_number"]
    return [
        (
            tenant,
            entity,
            by_point[tenant, entity, at].drop(columns=unsent).to_dict("records"),
            *([at.to_pydatetime()] if snapshot.definition else []),
        )
        for tenant, entity, at in keys.itertuples(index=False)
    ]


@dataclass(frozen=True)
class Comparison:
    """The candidate against the champion on the run's holdout: overall, by segment, by tenant.

    `silence` is the reason where the champion cannot predict the holdout. `is_newer` is true where
    the candidate has learned from later sessions than the champion.
    """

    lead: dict | None = None
    segments: list[dict] | None = None
    tenants: list[dict] | None = None
    is_newer: bool = False
    silence: str = ""


def against_champion(champion: tuple[str, str], run: Run) -> Comparison:
    """The comparison of the run's candidate with the champion, on rows that are new to both."""
    snapshot = snapshots.open(run.snapshot_id, run.store)
    try:
        theirs, seen_until = _predict_holdout(champion, run, snapshot)
    except Exception as error:  # a champion whose code has changed may raise anything
        reason = str(error).partition("\n")[0]
        silence = (
            f"Champion {champion[1]} cannot predict this holdout ({reason}), so it may be better. "
            "Where that is intended, as after a change of what the logs hold: "
            '`make deploy FORCE="the reason"`.'
        )
        return Comparison(silence=silence)
    both = run.predictions().merge(theirs[[*KEYS, "probability"]], on=KEYS)
    features = snapshot.rows_of(snapshot.features, both)
    features = features.drop(columns=["label", "status"])
    rows = both[[*KEYS, "label"]].merge(features, on=KEYS)
    settings, label = run.settings, both["label"].to_numpy()
    scores = both[run.chosen].to_numpy(), both["probability"].to_numpy()
    persons = both["person"].to_numpy() if "person" in both else None
    seed = settings["train"]["seed"]
    lead = difference(label, *scores, settings["evaluate"]["resamples"], seed, persons)
    segments = segment_columns(Part.of(rows), settings["evaluate"]["segments"])
    judged = by_segment(segments, label, *scores, SEGMENT_RESAMPLES, seed, persons)
    tenants = compare_tenants(both["tenant_id"].to_numpy(), label, *scores, persons)
    return Comparison(lead, judged, tenants, bool(seen_until < last_learned(run)))


def _against_baseline(run: Run) -> list[dict]:
    """The tenants' losses against the run's baseline; none where no baseline was trained."""
    rows = run.predictions()
    if BASELINE not in rows:
        return []
    scores = rows[run.chosen].to_numpy(), rows[BASELINE].to_numpy()
    persons = rows["person"].to_numpy() if "person" in rows else None
    return compare_tenants(rows["tenant_id"].to_numpy(), rows["label"].to_numpy(), *scores, persons)


def last_learned(run: Run) -> pd.Timestamp:
    """The last moment that the run's models learned from; NaT if that is not known."""
    split = run.metrics.get("split")
    return pd.Timestamp(split["validation"]["to"]) if split else pd.NaT


def _predict_holdout(
    champion: tuple[str, str], run: Run, snapshot: Snapshot
) -> tuple[pd.DataFrame, pd.Timestamp]:
    """The champion's probabilities for the rows that it was not trained on, and its last moment."""
    bundle, predictions = open_bundle(run.store.bundle(*champion)), run.predictions()
    LoadedModel(bundle).close()  # refuses a bundle that changed code makes answer differently
    seen_until = last_learned(Run(run.store, bundle.manifest["run"]))
    # After a change of [split] the holdout may begin before the end of the training data.
    predictions = predictions[~(predictions["point_at"] <= seen_until)]
    if predictions["label"].nunique() < 2:
        raise UserError("it has learned from nearly all of it")
    return batch_scores.predict(bundle, snapshot, predictions), seen_until


def run_smoke(bundle: Bundle) -> tuple[dict[str, Any] | None, str]:
    """The smoke test's figures, None where it failed, and a sentence about it."""
    try:
        figures = run_smoke_test(bundle.folder)
    except UserError as error:
        return None, str(error)
    seconds = f"{figures['start_seconds']:.1f} s"
    return figures, f"The server was ready in {seconds} and answered its sample as expected."


def choose_request(
    snapshot: Snapshot, feature_sql: str, lookups: Mapping, tenant: str = ""
) -> dict[str, Any]:
    """A made-up session at a prediction point, without the outcome; its values are of `tenant`."""
    points, values = sorted(snapshot.prediction_points), common_values(snapshot, tenant)
    if definition := snapshot.definition:
        request = sample_request(values)
        for event in request["events"]:
            event.setdefault(definition["entity"], f"sample-{definition['entity']}")
        at = SAMPLE_START + timedelta(hours=1)
        return request | ({"point_at": f"{at}Z"} if definition.get("asked_at") == "now" else {})
    size = points[len(points) // 2]
    choices = [values, {"event_type": values["event_type"]}, {}]
    requests = [sample_request(values, size) for values in choices]
    rows = [rows_of_request(place, "", each["events"]) for place, each in enumerate(requests)]
    with closing(FeatureQuery(feature_sql, lookups, outcome=snapshot.outcome)) as query:
        had_outcome = query.had_outcome(rows)
    return min(zip(had_outcome, range(len(requests)), requests, strict=True))[2]


def common_values(snapshot: Snapshot, tenant: str = "") -> dict[str, list[str]]:
    """The most frequent values of the columns that identify nobody, for the sample request.

    They are of one tenant, or of all.
    """
    of_tenant = f"and tenant_id = '{quoted(tenant)}'" if tenant else ""
    events = snapshot.relation("events").filter(f"not is_outcome {of_tenant}")

    def most_frequent(name: str) -> list[str]:
        counts = events.filter(f"{name} is not null").aggregate(f"{name}, count(*) as n")
        rows = counts.order(f"n desc, {name}").limit(4).project(name).fetchall()
        return [value for (value,) in rows]

    return {name: most_frequent(name) for name in COMMON_COLUMNS}


def sample_request(values: Mapping[str, Sequence[str]], event_count: int = 6) -> dict[str, Any]:
    """A body for POST /predict with the given values of `event_type`, `page`, `device` etc."""
    event_types = list(values.get("event_type", ())) or ["page_view"]
    others = {name: list(given) for name, given in values.items() if name != "event_type" and given}
    events = []
    for number in range(event_count):
        occurred_at = SAMPLE_START + timedelta(seconds=20 * number)
        event = {
            "event_id": f"sample-{number}",
            "event_type": event_types[number % len(event_types)],
            "occurred_at": occurred_at.isoformat() + "Z",
            "anonymous_id": "sample-visitor",
            "product_id": f"sample-product-{number % 2}",
            "price": 10.0 + number,
        }
        for name, given in others.items():
            event[name] = given[number % len(given) if name in CHANGING_COLUMNS else 0]
        events.append(event)
    return {"tenant_id": SAMPLE_TENANT, "events": events}
