"""Rows in time order: learn from the past, tune on what came next, judge on what came last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ml.errors import CannotLearn

KEYS = ["tenant_id", "entity_id", "point_at"]
NOT_FEATURES = [*KEYS, "person_id", "status", "label"]


@dataclass(frozen=True)
class Part:
    """Some rows: who and when (`keys`), what was known then (`features`), what came of it (`label`, 0 or 1)."""

    keys: pd.DataFrame
    features: pd.DataFrame
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def summary(self) -> dict[str, Any]:
        """Dates, rows, positives and label rate, as plain values."""
        times = self.keys["point_at"]
        return {
            "from": times.min().isoformat(),
            "to": times.max().isoformat(),
            "rows": len(self),
            "positives": int(self.label.sum()),
            "label_rate": float(self.label.mean()),
        }


@dataclass(frozen=True)
class Split:
    """Three parts; each ends before the next begins."""

    train: Part
    validation: Part
    holdout: Part

    def summary(self) -> dict[str, dict[str, Any]]:
        """The summary of each part by its name."""
        return {name: getattr(self, name).summary() for name in ("train", "validation", "holdout")}


def by_time(frame: pd.DataFrame, train: float, validation: float, features: list[str] | None = None) -> Split:
    """The rows with status 'train', split in order of `point_at`; rows of one moment stay together.

    `train` and `validation` are shares of the rows; the rest is the holdout. Every column that is not a key, the
    status, the label or the person is a feature, unless `features` names them. Raises `CannotLearn`.
    """
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise CannotLearn(
            f"The shares train = {train} and validation = {validation} leave no holdout: "
            "set both above 0 and their sum below 1 under [split] in project.toml."
        )
    rows = _teaching_rows(frame)
    times = rows["point_at"].to_numpy()
    first, second = _cut(times, train), _cut(times, train + validation)
    names = features if features is not None else [name for name in frame.columns if name not in NOT_FEATURES]
    keys = [name for name in [*KEYS, "person_id"] if name in frame.columns]
    parts = [_part(rows, keys, names, span) for span in (slice(first), slice(first, second), slice(second, None))]
    split = Split(*parts)
    _refuse_thin_parts(split)
    return split


def _teaching_rows(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[(frame["status"] == "train") & frame["label"].notna()]
    if rows.empty:
        found = ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items()) or "none"
        raise CannotLearn(
            f"No session teaches anything yet (sessions by status: {found}). Put more days of logs under data/raw, or "
            "let a session be looked at earlier (the point's vars in dbt/dbt_project.yml), then `make data`."
        )
    # entity and tenant only make the order of equal times the same on every machine
    return rows.sort_values(["point_at", "tenant_id", "entity_id"], kind="stable", ignore_index=True)


def _cut(times: np.ndarray, share: float) -> int:
    place = min(round(share * len(times)), len(times) - 1)
    before, after = (int(np.searchsorted(times, times[place], side)) for side in ("left", "right"))
    return before if place - before <= after - place else after


def _part(rows: pd.DataFrame, keys: list[str], features: list[str], span: slice) -> Part:
    some = rows.iloc[span].reset_index(drop=True)
    return Part(some[keys], some[features], some["label"].astype(int).to_numpy())


def _refuse_thin_parts(split: Split) -> None:
    parts = {"train": split.train, "validation": split.validation, "holdout": split.holdout}
    total = sum(len(part) for part in parts.values())
    positives = int(sum(part.label.sum() for part in parts.values()))
    if positives in (0, total):
        only = "had the outcome" if positives else "did not have the outcome"
        raise CannotLearn(
            f"All {total} sessions {only}, so there is nothing to tell apart: "
            "check `vars: outcome:` in dbt/dbt_project.yml, or add more days of logs, then `make data`."
        )
    for name, part in parts.items():
        found = int(part.label.sum())
        if len(part) and 0 < found < len(part):
            continue
        raise CannotLearn(
            f"Too few rows: of {total} sessions ({positives} with the outcome) the {name} part has {len(part)}, "
            f"{found} of them with the outcome, and needs some with and some without. Add more days of logs, then "
            "`make data`, or give that part a larger share under [split] in project.toml."
        )
