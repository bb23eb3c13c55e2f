"""A loaded bundle of a ranking question: events of sessions in, recommended items out."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from jollyboat.bundles.bundle import REASSEMBLE, Bundle
from jollyboat.bundles.features import FeatureQuery, Rows, rows_of_request
from jollyboat.bundles.model import NO_EVENTS, TOLERANCE, LoadedModel, events_of
from jollyboat.ranking import rankers
from jollyboat.ranking.recommend import recommend
from jollyboat.store import UserError

MOST_ITEMS = 100
RECOMMENDED, UNKNOWN_TENANT, NO_ITEMS = "recommended", "unknown_tenant", "no_items"


@dataclass(frozen=True)
class Recommendation:
    """The best items for one session at its point, each with score and reason, the best first.

    The status is UNKNOWN_TENANT where the lookups have no item of the tenant, NO_ITEMS where no
    other item than the last one is left, and NO_EVENTS where no event is up to the point.
    """

    items: list[dict[str, Any]]
    event_count: int
    point_at: str
    status: str
    features_hash: None = None
    reasons: None = None


class RankingModel(LoadedModel):
    """A loaded bundle of a ranking; UserError as by LoadedModel.

    With `days` the lookups are a server's: the oldest of the states in memory answers any earlier
    event, since a client's clock may be late.
    """

    _load = staticmethod(rankers.load)
    _reaches_back = True
    nothing = Recommendation([], 0, "", NO_EVENTS)

    def __init__(
        self,
        bundle: Bundle,
        lookup_files: Mapping[str, Sequence[Path]] | None = None,
        days: int | None = None,
        salt: str | None = None,
        until: datetime | None = None,
    ):
        super().__init__(bundle, lookup_files, days=days, salt=salt, until=until)
        tables = bundle.lookups
        self._tenants = set().union(*(self.query.keys(each, "tenant_id") for each in tables))

    def pairs(self, sessions: Sequence[tuple]) -> pd.DataFrame:
        """The candidates of each session with their features; `point` is the session's place."""
        return _read_pairs(self.query, self._rows(sessions))

    def rank(self, pairs: pd.DataFrame, count: int = MOST_ITEMS) -> pd.DataFrame:
        """The best items of each point; see jollyboat.ranking.recommend."""
        return recommend(self._model, pairs, count)

    def check_sample(self) -> None:
        """UserError if the bundle no longer ranks its sample's items as when it was made."""
        sample = self.bundle.sample
        ranked = _rank_sample(self.query, self._model, sample["request"])
        if not _are_same(ranked, sample["answer"]["items"]):
            raise UserError(
                f"The bundle at {self.bundle.folder} ranks the items of its own sample otherwise "
                f"than when it was made: {REASSEMBLE}."
            )

    def predict_rows(self, requests: Sequence[tuple], rows: list[Rows]) -> list[Recommendation]:
        """The best items for each request from its rows; all are requests to this model."""
        items = _items_by_point(self._model, _read_pairs(self.query, rows))
        return [
            Recommendation(
                items.get(place, []),
                len(events),
                events[-1]["point_at"],
                self._status(events[-1]["tenant_id"], place in items),
            )
            for place, events in enumerate(rows)
        ]

    def _status(self, tenant_id: str, has_items: bool) -> str:
        if has_items:
            return RECOMMENDED
        return NO_ITEMS if tenant_id in self._tenants else UNKNOWN_TENANT


def make_sample(
    model: Path,
    feature_sql: str,
    lookups: Mapping[str, Mapping[str, str]],
    question: Mapping[str, Any],
    request: Mapping[str, Any],
    rows: Mapping[str, Sequence[Mapping]],
) -> dict[str, Any]:
    """A bundle's sample.json: a request, a few rows of the lookups, and the answer from these."""
    with closing(
        FeatureQuery(feature_sql, lookups, events=events_of(question), rows=rows)
    ) as query:
        items = _rank_sample(query, rankers.load(model), request)
    return {"request": request, "lookups": rows, "answer": {"status": RECOMMENDED, "items": items}}


def _rank_sample(
    query: FeatureQuery, ranker: rankers.Ranker, request: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The items for a sample's request, from a query whose lookups have the sample's rows."""
    rows = rows_of_request(0, request["tenant_id"], request["events"])
    return _items_by_point(ranker, _read_pairs(query, [rows])).get(0, [])


def _read_pairs(query: FeatureQuery, rows: Sequence[Rows]) -> pd.DataFrame:
    names, pairs = query.rows(rows)
    frame = pd.DataFrame.from_records(pairs, columns=names)
    return frame.assign(point=frame["entity_id"].astype(int))


def _items_by_point(ranker: rankers.Ranker, pairs: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    items: dict[int, list[dict[str, Any]]] = {}
    best = recommend(ranker, pairs, MOST_ITEMS) if len(pairs) else pd.DataFrame()
    for row in best.to_dict("records"):
        kept = {name: row[name] for name in ("item", "score", "reason")}
        items.setdefault(row["point"], []).append(kept)
    return items


def _are_same(ranked: Sequence[Mapping], expected: Sequence[Mapping]) -> bool:
    return len(ranked) == len(expected) and all(
        one["item"] == other["item"]
        and math.isclose(one["score"], other["score"], rel_tol=0, abs_tol=TOLERANCE)
        for one, other in zip(ranked, expected, strict=True)
    )
