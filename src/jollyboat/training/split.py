"""Rows split in order of time: train, then validation, then holdout."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from jollyboat.store import UserError

KEYS = ["tenant_id", "entity_id", "point_at", "person_id"]
NOT_FEATURES = [*KEYS, "status", "label"]


@dataclass(frozen=True)
class Part:
    """Rows as keys (who and when), features, and label (0 or 1)."""

    keys: pd.DataFrame
    features: pd.DataFrame
    label: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Self:
        """These rows as a part; a column that is no key, status or label is a feature."""
        rows = rows.reset_index(drop=True)
        keys = rows[[name for name in KEYS if name in rows.columns]]
        features = rows.drop(columns=NOT_FEATURES, errors="ignore")
        return cls(keys, features, rows["label"].astype(int).to_numpy())

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


def by_time(frame: pd.DataFrame, train: float, validation: float, horizon_days: int = 0) -> Split:
    """The parts of `cut`; UserError unless each has rows with the outcome and without it."""
    rows = _labelled(frame)
    _check_outcomes(frame, rows)
    split = cut(frame, train, validation, horizon_days)
    for name, part in vars(split).items():
        positives = int(part.label.sum())
        if positives in (0, len(part)):
            raise UserError(
                f"Too few rows: of {len(rows)} rows ({int(rows['label'].sum())} with the "
                f"outcome) the {name} part has {len(part)}, {positives} of them with the outcome. "
                f"It needs some with and some without.{_format_open(frame)} Add more days of logs, "
                "then run `make data`, or give that part a larger share under [split] in "
                "project.toml."
            )
    return split


def cut(frame: pd.DataFrame, train: float, validation: float, horizon_days: int = 0) -> Split:
    """The rows with status 'train', split in order of `point_at`; rows of one moment stay together.

    `train` and `validation` are shares of the rows; the rest is the holdout. With a horizon they
    are shares of the time, and the rows of a horizon before validation and holdout are left out:
    so no label of a part is decided in a later one. Any part may be empty.
    """
    rows = _labelled(frame)
    if horizon_days:
        parts = _cut_with_gaps(rows, train, validation, pd.Timedelta(days=horizon_days))
    else:
        times = rows["point_at"].to_numpy()
        first, second = (_cut(times, share) for share in (train, train + validation))
        parts = (rows.iloc[:first], rows.iloc[first:second], rows.iloc[second:])
    return Split(*map(Part.of, parts))


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows to learn from, in order of time."""
    rows = frame[(frame["status"] == "train") & frame["label"].notna()]
    # tenant and entity make the order of equal times the same on every machine
    return rows.sort_values(["point_at", "tenant_id", "entity_id"], kind="stable")


def _format_open(frame: pd.DataFrame) -> str:
    """How many rows have no known outcome yet, where they are a fifth or more of all."""
    count = int((frame["status"] == "open").sum())
    if count <= len(frame) / 5:
        return ""
    return (
        f" {count:,} of {len(frame):,} rows are open: their outcome may still follow, because the "
        "logs end less than the horizon of the question after them (for sessions `vars: "
        "session_silence_minutes:` in dbt/dbt_project.yml)."
    )


def _check_outcomes(frame: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Raise UserError where no session can train, or all of them have the same outcome."""
    if rows.empty:
        counts = frame["status"].value_counts().items()
        statuses = ", ".join(f"{count} {status}" for status, count in counts) or "none"
        raise UserError(
            f"No row can be used for training yet (rows by status: {statuses})."
            f"{_format_open(frame)} Where most `had_outcome`, correct `vars: outcome:` in "
            "dbt/dbt_project.yml. Else put more days of logs under data/raw, or predict earlier in "
            "a session (`prediction_points`). Then run `make data`."
        )
    positives = int(rows["label"].sum())
    if positives in (0, len(rows)):
        which = "had the outcome" if positives else "did not have the outcome"
        raise UserError(
            f"All {len(rows)} rows {which}, so a model has nothing to learn. Check the outcome "
            "(of sessions `vars: outcome:` in dbt/dbt_project.yml, of another question the meta of "
            "its points below dbt/models/questions), or add more days of logs, then run "
            "`make data`."
        )


def rows_of(part: Part, rows: slice | np.ndarray) -> Part:
    """These rows, numbered from 0."""
    return Part(
        part.keys.iloc[rows].reset_index(drop=True),
        part.features.iloc[rows].reset_index(drop=True),
        part.label[rows],
    )


def thin(part: Part, most: int) -> Part:
    """At most so many rows, evenly spaced, in their order."""
    if len(part) <= most:
        return part
    return rows_of(part, np.linspace(0, len(part) - 1, most).astype(int))


def join(first: Part, second: Part) -> Part:
    """The rows of both parts, in their order."""
    return Part(
        pd.concat([first.keys, second.keys], ignore_index=True),
        pd.concat([first.features, second.features], ignore_index=True),
        np.concatenate([first.label, second.label]),
    )


def _cut_with_gaps(
    rows: pd.DataFrame, train: float, validation: float, gap: pd.Timedelta
) -> tuple[pd.DataFrame, ...]:
    """Three parts with a gap before the second and the third one."""
    times = rows["point_at"]
    first, last = times.min(), times.max()
    span = max(last - first - 2 * gap, pd.Timedelta(0))
    train_end = first + train * span
    validation_end = train_end + gap + validation * span
    return (
        rows[times <= train_end],
        rows[times.between(train_end + gap, validation_end)],
        rows[times > validation_end + gap],
    )


def _cut(times: np.ndarray, share: float) -> int:
    """The first row of the moment at which this share of the rows ends."""
    if not len(times):
        return 0
    return int(np.searchsorted(times, times[min(round(share * len(times)), len(times) - 1)]))
