"""Rows in time order: learn from the past, tune on what came next, judge on what came last."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from jollyboat.store import UserError

KEYS = ["tenant_id", "entity_id", "point_at", "person_id"]
NOT_FEATURES = [*KEYS, "status", "label"]


@dataclass(frozen=True)
class Part:
    """Some rows: who and when (`keys`), what was known then (`features`), what came of it (`label`, 0 or 1)."""

    keys: pd.DataFrame
    features: pd.DataFrame
    label: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Self:
        """The part that holds these rows; each column that is no key, status or label is a feature."""
        rows = rows.reset_index(drop=True)
        keys = rows[[name for name in KEYS if name in rows.columns]]
        return cls(
            keys,
            rows.drop(columns=NOT_FEATURES, errors="ignore"),
            rows["label"].astype(int).to_numpy(),
        )

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
        return {name: part.summary() for name, part in vars(self).items()}


def by_time(frame: pd.DataFrame, train: float, validation: float) -> Split:
    """The rows with status 'train', split in order of `point_at`; rows of one moment stay together.

    `train` and `validation` are shares of the rows; the rest is the holdout. Raises `UserError`.
    """
    rows = frame[(frame["status"] == "train") & frame["label"].notna()]
    if rows.empty:
        found = (
            ", ".join(
                f"{count} {status}" for status, count in frame["status"].value_counts().items()
            )
            or "none"
        )
        raise UserError(
            f"No session teaches anything yet (sessions by status: {found}). Put more days of logs under data/raw, or "
            "let a session be looked at earlier (the point's vars in dbt/dbt_project.yml), then `make data`."
        )
    total, positives = len(rows), int(rows["label"].sum())
    if positives in (0, total):
        only = "had the outcome" if positives else "did not have the outcome"
        raise UserError(
            f"All {total} sessions {only}, so there is nothing to tell apart: "
            "check `vars: outcome:` in dbt/dbt_project.yml, or add more days of logs, then `make data`."
        )
    # entity and tenant only make the order of equal times the same on every machine
    rows = rows.sort_values(["point_at", "tenant_id", "entity_id"], kind="stable")
    times = rows["point_at"].to_numpy()
    first, second = _cut(times, train), _cut(times, train + validation)
    split = Split(
        Part.of(rows.iloc[:first]), Part.of(rows.iloc[first:second]), Part.of(rows.iloc[second:])
    )
    for name, part in vars(split).items():
        found = int(part.label.sum())
        if found in (0, len(part)):
            raise UserError(
                f"Too few rows: of {total} sessions ({positives} with the outcome) the {name} part has {len(part)}, "
                f"{found} of them with the outcome, and needs some with and some without. Add more days of logs, then "
                "`make data`, or give that part a larger share under [split] in project.toml."
            )
    return split


def rows_of(part: Part, rows: slice | np.ndarray) -> Part:
    """These rows, numbered from 0."""
    return Part(
        part.keys.iloc[rows].reset_index(drop=True),
        part.features.iloc[rows].reset_index(drop=True),
        part.label[rows],
    )


def thin(part: Part, most: int) -> Part:
    """At most so many rows, evenly taken, in their order."""
    return (
        part
        if len(part) <= most
        else rows_of(part, np.linspace(0, len(part) - 1, most).astype(int))
    )


def join(first: Part, second: Part) -> Part:
    """Both, in their order."""
    return Part(
        pd.concat([first.keys, second.keys], ignore_index=True),
        pd.concat([first.features, second.features], ignore_index=True),
        np.concatenate([first.label, second.label]),
    )


def _cut(times: np.ndarray, share: float) -> int:
    """Where the moment begins that this share of the rows falls into."""
    return int(np.searchsorted(times, times[min(round(share * len(times)), len(times) - 1)]))
