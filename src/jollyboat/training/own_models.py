"""Models of single tenants: each learns from the rows of its tenant alone.

A tenant's rows are split by its own times, so its model depends on no other tenant. It is compared
with the shared model on the rows that neither has learned from.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.pages.terminal import format_count
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import SHARED, TENANT_ID
from jollyboat.training.diagnosis import average_precision
from jollyboat.training.estimators import BASELINE, Model, fit, refit
from jollyboat.training.evaluate import lead_with_p
from jollyboat.training.explanation import describe
from jollyboat.training.persistence import save
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part, Split, cut, join
from jollyboat.training.training import holdout_predictions, save_atomically

FITTED, TOO_FEW, FAILED = "fitted", "too few outcomes", "failed"
CHANCE = 0.005  # level of the test: so many tenants without a lead have one by chance
ROW = ["tenant_id", "entity_id", "point_at"]


def plan(opened: Snapshot, settings: Mapping) -> dict[str, int]:
    """The tenants that may have a model of their own, each with its number of outcomes.

    A shared model of one tenant is its own already. A private tenant needs no number of outcomes.
    """
    rows = opened.relation(opened.features).filter("status = 'train' and label is not null")
    counts = dict(rows.aggregate("tenant_id, cast(sum(label::int) as bigint)").fetchall())
    private, least = settings["tenants"]["private"], settings["tenants"]["min_outcomes"]
    enough = {
        tenant: count
        for tenant, count in counts.items()
        if tenant in private or (count >= least and len(counts) > 1)
    }
    return dict(sorted(enough.items(), key=lambda each: (-each[1], each[0])))


def fit_tenants(
    rows: Mapping[str, pd.DataFrame], settings: Mapping, folder: Path, horizon_days: int = 0
) -> dict[str, dict[str, Any]]:
    """For each tenant its best candidate, saved in `folder`/<tenant>, or why it has none.

    `rows` has each tenant's training rows. The results have `status`, `reason`, `rows` and
    `outcomes` to learn from, the `candidate`, its `description` and its probabilities of the
    `holdout`.
    """
    return {
        tenant: _fit_tenant(
            tenant, cut(frame, **settings["split"], horizon_days=horizon_days), settings, folder
        )
        for tenant, frame in rows.items()
    }


def without_own(rows: pd.DataFrame, settings: Mapping) -> dict[str, dict[str, Any]]:
    """The result of each tenant of these rows, as if none of them had enough outcomes."""
    counts = rows[rows["status"] == "train"].groupby("tenant_id")["label"].agg(["size", "sum"])
    least = settings["tenants"]["min_outcomes"]
    return {
        tenant: {
            "is_private": tenant in settings["tenants"]["private"],
            "status": TOO_FEW,
            "reason": "it is the only tenant, whose rows the shared model learns"
            if len(counts) == 1 and outcomes >= least
            else f"{format_count(int(outcomes), 'outcome')} in all, {least} are needed",
            "rows": int(size),
            "outcomes": int(outcomes),
        }
        for tenant, size, outcomes in counts.itertuples()
    }


def compare(
    results: Mapping[str, Mapping], shared: pd.DataFrame, settings: Mapping
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Each tenant's result with its lead over the shared model, and the own models' holdout.

    The rows and outcomes of its holdout are those that the shared model has not seen either.
    `shared` has the shared model's `probability` of its holdout. The lead is of average precision,
    by a paired bootstrap. `is_better` is true where it is significant at the level CHANCE, however
    many tenants are compared.
    """
    frames = [each["holdout"] for each in results.values() if each["status"] == FITTED]
    columns = [*ROW, "label", "probability"]
    holdout = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    both = dict(iter(_beside(holdout, shared).groupby("tenant_id")))
    compared = {
        tenant: {name: value for name, value in each.items() if name != "holdout"}
        | _lead(both.get(tenant), settings)
        for tenant, each in results.items()
    }
    return compared, holdout


def summarize(compared: Mapping[str, Mapping], holdout: pd.DataFrame, shared: pd.DataFrame) -> dict:
    """How many tenants have which result, and what own models are worth on all holdouts together.

    `average_precision` is over the holdouts of the tenants with a fitted model: with the shared
    model only, with own models only, and with own models where they are better.
    """
    statuses = pd.Series([each["status"] for each in compared.values()]).value_counts().to_dict()
    better = [tenant for tenant, each in compared.items() if each.get("is_better")]
    rows = _beside(holdout, shared)
    mixed = np.where(rows["tenant_id"].isin(better), rows["probability"], rows["shared"])
    part = Part(rows[ROW], rows[[]], rows["label"].to_numpy(dtype=int))
    scores = {"shared": rows["shared"], "own": rows["probability"], "mixed": mixed}
    precision = {name: average_precision(part, np.asarray(one)) for name, one in scores.items()}
    return {"statuses": statuses, "better": len(better), "average_precision": precision}


def _fit_tenant(tenant: str, split: Split, settings: Mapping, folder: Path) -> dict[str, Any]:
    is_private = tenant in settings["tenants"]["private"]
    learned = (split.train, split.validation)
    counts = {
        "is_private": is_private,
        "rows": sum(map(len, learned)),
        "outcomes": int(sum(part.label.sum() for part in learned)),
    }
    if tenant == SHARED or not re.fullmatch(TENANT_ID, tenant):
        return counts | {"status": FAILED, "reason": "the fit failed: its name cannot own a model"}
    names, reason = _candidates(split, counts, settings)
    if reason:
        return counts | {"status": TOO_FEW, "reason": reason}
    try:
        return (
            counts
            | {"status": FITTED, "reason": ""}
            | _fit(names, split, settings, folder / tenant)
        )
    except Exception as error:  # a candidate of the team may raise anything
        sentence = str(error).partition("\n")[0] or type(error).__name__
        return counts | {"status": FAILED, "reason": f"the fit failed: {sentence:.200}"}


def _candidates(split: Split, counts: Mapping, settings: Mapping) -> tuple[list[str], str]:
    """The candidates to fit, or the reason why there is none."""
    names, least = settings["train"]["candidates"], settings["tenants"]["min_outcomes"]
    for name, part in vars(split).items():
        if part.label.sum() in (0, len(part)) and not (counts["is_private"] and name == "holdout"):
            count = format_count(int(part.label.sum()), "outcome")
            return [], f"its {name} part has {count} in {format_count(len(part), 'row')}"
    if counts["outcomes"] >= least:
        return names, ""
    if counts["is_private"]:
        return [name for name in names if name == BASELINE] or names[:1], ""
    return [], f"{format_count(counts['outcomes'], 'outcome')} to learn from, {least} are needed"


def _fit(names: Sequence[str], split: Split, settings: Mapping, folder: Path) -> dict[str, Any]:
    """The candidate with the best average precision on validation, fitted again on both parts."""
    schema = FeatureSchema.from_frame(split.train.features)
    seed, models, precisions = settings["train"]["seed"], {}, {}
    for name in names:
        own = {"seed": seed, **settings.get(name, {})}
        models[name] = fit(name, split.train, split.validation, schema, own)
        probability = models[name].predict_proba(split.validation.features)
        precisions[name] = average_precision(split.validation, probability)
    best = max(precisions, key=precisions.get)  # of equals the first, which is the simplest
    own = {"seed": seed, **settings.get(best, {})}
    model: Model = refit(best, models[best], split.train, split.validation, own)
    save_atomically(partial(save, model), folder)
    probability = model.predict_proba(split.holdout.features)
    return {
        "candidate": best,
        "description": describe(model),
        "until": join(split.train, split.validation).keys["point_at"].max().isoformat(),
        "holdout": holdout_predictions(split, {"probability": {"holdout": probability}}),
    }


def _beside(holdout: pd.DataFrame, shared: pd.DataFrame) -> pd.DataFrame:
    """The rows of both holdouts, with the other model's probability as `shared`."""
    theirs = shared[[*ROW, "probability"]].rename(columns={"probability": "shared"})
    return holdout.merge(theirs, on=ROW)


def _lead(rows: pd.DataFrame | None, settings: Mapping) -> dict[str, Any]:
    if rows is None:
        return {"holdout_rows": 0, "holdout_outcomes": 0}
    counts = {"holdout_rows": len(rows), "holdout_outcomes": int(rows["label"].sum())}
    resampling = settings["evaluate"]["resamples"], settings["train"]["seed"]
    scores = [rows[name].to_numpy() for name in ("label", "probability", "shared")]
    persons = rows["person"].to_numpy() if "person" in rows else None
    part = Part(rows[ROW], rows[[]], scores[0].astype(int))
    precisions = {
        "own": average_precision(part, scores[1]),
        "shared": average_precision(part, scores[2]),
    }
    lead = lead_with_p(*scores, *resampling, persons)
    is_better = lead["p"] <= CHANCE
    return counts | {"average_precision": precisions, "lead": lead, "is_better": is_better}
