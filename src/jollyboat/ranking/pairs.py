"""The pairs of a ranking question: each point with its candidate items and their features."""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd

from jollyboat.store import UserError

KEYS = ["tenant_id", "entity_id", "point_at"]
BY_TIME = ["point_at", "tenant_id", "entity_id"]
NOT_FEATURES = [*KEYS, "point", "item", "is_next", "because_of"]
POINTS_AT_ONCE = 2_000  # 200,000 pairs; the candidates of more points take gigabytes
FEWEST_POINTS = 50  # of each part


@dataclass(frozen=True)
class Pairs:
    """Points (keys and the next `item`) in order of time, and a frame of their candidates.

    In the frame `point` is the row of `points`, and the rows of a point are side by side.
    """

    points: pd.DataFrame
    frame: pd.DataFrame

    @property
    def features(self) -> pd.DataFrame:
        """The columns that a model may read."""
        return self.frame.drop(columns=NOT_FEATURES, errors="ignore")


class PairQuery:
    """The SQL of <question>_pairs_at_point over tables of a snapshot, in memory.

    `tables` has each table's `from` clause, such as `Snapshot.scan` returns: lookups, and
    <question>_events_at_point.
    """

    def __init__(self, question: str, sql: str, tables: Mapping[str, str]):
        self._sql, self._events = sql, f"{question}_events_at_point"
        self._scan = tables[self._events]
        self._connection = duckdb.connect()
        self._connection.execute("set TimeZone = 'UTC'; attach ':memory:' as warehouse")
        self._connection.execute("use warehouse")
        for table, scan in tables.items():
            if table != self._events:
                self._connection.execute(f'create table "{table}" as from {scan}')

    def run(self, points: pd.DataFrame, share: float = 1) -> Pairs:
        """The pairs of these points, with a share of each point's wrong candidates.

        A hash draws the share evenly: 30 of 100 teach trees as much as all.
        """
        points = points.sort_values(BY_TIME, ignore_index=True)
        self._connection.register("points", points.rename_axis("point").reset_index())
        keys = ", ".join(KEYS)
        self._connection.execute(
            "create or replace temp table sampled as select events.*, points.point "
            f"from {self._scan} as events inner join points using ({keys})"
        )
        self._connection.execute(
            f"create or replace view {self._events} as select * exclude (point) from sampled "
            f"where point // {POINTS_AT_ONCE} = getvariable('portion')"
        )
        frames = []
        for portion in range(1 + (len(points) - 1) // POINTS_AT_ONCE):
            self._connection.execute(f"set variable portion = {portion}")
            frames.append(
                self._connection.sql(
                    "select point, pairs.item = points.item is true as is_next, "
                    f"pairs.* exclude ({keys}) "
                    f"from ({self._sql}) as pairs inner join points using ({keys}) "
                    f"where is_next or hash(point, pairs.item) % 1000 < {1000 * share} "
                    "order by point, candidate_rank"
                ).df()
            )
        return Pairs(points, pd.concat(frames, ignore_index=True))

    def catalogue(self, lookup: str) -> int:
        """The number of items of all tenants in a lookup."""
        return self._connection.table(lookup).unique("tenant_id, key").count("*").fetchone()[0]

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()


def sort_points(points: pd.DataFrame) -> pd.DataFrame:
    """The points in the order of Pairs: by time, tenant and entity, numbered from 0."""
    return points.sort_values(["point_at", "tenant_id", "entity_id"], ignore_index=True)


def split_points(
    points: pd.DataFrame, train: float, validation: float, most: int, seed: int
) -> dict[str, pd.DataFrame]:
    """The points with a next item in order of time: train, validation, holdout.

    Days stay whole. `train` and `validation` are shares of the days. Each part keeps at most
    `most` points, drawn at random. Raises `UserError` where a part is too small.
    """
    # A table's rows have no order of their own; the same rows draw the same sample.
    points = points[points["item"].notna()].sort_values(BY_TIME, ignore_index=True)
    day = points["point_at"].dt.normalize()
    days = np.sort(day.unique())
    ends = [round(share * len(days)) for share in (train, train + validation)]
    part = np.searchsorted(ends, np.searchsorted(days, day), side="right")
    parts = {}
    for number, name in enumerate(("train", "validation", "holdout")):
        rows = points[part == number]
        if len(rows) < FEWEST_POINTS:
            raise UserError(
                f"Too few points: the {name} part has {len(rows)} with a next item, of {len(days)} "
                f"days; it needs {FEWEST_POINTS}. Add more days of logs, then run `make data`."
            )
        parts[name] = rows.sample(min(most, len(rows)), random_state=seed)
    return parts
