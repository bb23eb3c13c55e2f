"""The steps of a training run on one snapshot, for a ranking question."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.ranking import evaluate, rankers
from jollyboat.ranking.pairs import KEYS, PairQuery, Pairs, sort_points, split_points
from jollyboat.ranking.recommend import recommend
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.training.learner import Learner
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.training import save_atomically

MOST_TRAIN, MOST_TUNING, MOST_VALIDATION, MOST_HOLDOUT = 30_000, 2_000, 3_000, 10_000
SHARE = 0.3  # of the wrong candidates that trees learn from
EXAMPLES, EXAMPLE_ITEMS = 3, 5
MRR, HIT_RATE = f"mrr_{evaluate.COUNT}", f"hit_rate_{evaluate.COUNT}"


def learner_of(opened: Snapshot, settings: Mapping) -> "Learner | RankingLearner":
    """The steps of a training run for the snapshot's question."""
    return (RankingLearner if opened.is_ranking else Learner)(opened, settings)


class RankingLearner:
    """Fits and compares rankers on the points with a next item, whole days in order of time.

    One sample of validation ends the growing of trees, another one chooses the candidate.
    """

    def __init__(self, opened: Snapshot, settings: Mapping):
        self._opened, self._settings = opened, settings
        self._seed, self._resamples = settings["train"]["seed"], settings["evaluate"]["resamples"]
        points = opened.frame(opened.features)
        points = points[~points["tenant_id"].isin(settings["tenants"]["private"])]
        self._points = split_points(points, **settings["split"], most=MOST_TRAIN, seed=self._seed)
        self._points["holdout"] = self._points["holdout"][:MOST_HOLDOUT]  # in random order
        self.train_rows, self.holdout_rows = (
            len(self._points[name]) for name in ("train", "holdout")
        )

    def fit(self, name: str, folder: Path) -> dict[str, Any]:
        """Fit one candidate, save it in `folder`, and return its gains, figures and examples."""
        own = {"seed": self._seed, **self._settings.get(name, {})}
        tuned = (self._train, self._tuning) if name == rankers.XGBOOST else (None, None)
        ranker = rankers.fit(name, *tuned, own)
        save_atomically(ranker.save, folder)
        score, resamples = ranker.score(self._holdout.frame), self._resamples
        catalogue = self._query.catalogue(f"lookup_{self._opened.store.question}_popular")
        schema = ranker.schema or FeatureSchema.from_frame(self._holdout.features)
        is_next = self._holdout.frame.groupby("point")["is_next"].any()
        return {
            "validation": evaluate.gains(self._validation, ranker.score(self._validation.frame)),
            "holdout": evaluate.gains(self._holdout, score),
            "figures": evaluate.figures(self._holdout, score, catalogue, resamples, self._seed),
            "description": ranker.description,
            "importance": ranker.importance(),
            "examples": _examples(ranker, self._holdout),
            "schema": schema.to_dict(),
            "reach": float(is_next.sum() / len(self._holdout.points)),
            "catalogue": catalogue,
        }

    def compare(self, fitted: Mapping[str, Mapping], saved: Path) -> dict[str, Any]:
        """The figures of the run: each candidate on the holdout, and the chosen one.

        Only the mean reciprocal rank on validation decides the choice; of equals the simplest.
        """
        names = list(fitted)
        figures = {
            name: self._figures(fitted, name, before)
            for name, before in zip(names, [None, *names[:-1]], strict=True)
        }
        first = next(iter(fitted.values()))
        return {
            "chosen": max(figures, key=lambda name: figures[name]["validation"][MRR]["value"]),
            "ranking": {
                "count": evaluate.COUNT,
                **{key: first[key] for key in ("reach", "catalogue")},
            },
            "split": {name: _summary(points) for name, points in self._points.items()},
            "sessions": len(self._points["holdout"].drop_duplicates(KEYS[:2])),
            "tenants": int(self._points["holdout"]["tenant_id"].nunique()),
            "candidates": figures,
        }

    def _figures(
        self, fitted: Mapping[str, Mapping], name: str, before: str | None
    ) -> dict[str, Any]:
        """The figures of one candidate, with its lead over popularity and the candidate before."""
        one = fitted[name]
        others = {"against_baseline": rankers.POPULARITY, "against_previous": before}
        return {
            **{key: one[key] for key in ("description", "importance", "examples")},
            "validation": {MRR: {"value": float(one["validation"][MRR].mean())}},
            "holdout": one["figures"],
            **{
                key: self._lead(one, fitted[other])
                for key, other in others.items()
                if other in fitted and other != name
            },
        }

    def _lead(self, one: Mapping, other: Mapping) -> dict[str, Any]:
        sessions = evaluate.number_sessions(self._sorted_holdout)
        gains = one["holdout"][MRR], other["holdout"][MRR]
        return evaluate.lead(*gains, sessions, self._resamples, self._seed)

    def predictions(self, fitted: Mapping[str, Mapping]) -> pd.DataFrame:
        """The holdout's points with their session and each candidate's reciprocal rank."""
        points = self._sorted_holdout
        numbers = evaluate.number_sessions(points)
        gains = {name: one["holdout"][MRR] for name, one in fitted.items()}
        return points.assign(session=numbers, **gains)

    def schema(self, fitted: Mapping[str, Mapping]) -> dict[str, Any]:
        """The features that the last candidate reads, or may read."""
        return list(fitted.values())[-1]["schema"]

    @property
    def _sorted_holdout(self) -> pd.DataFrame:
        """The holdout's points in the order of their pairs."""
        return sort_points(self._points["holdout"])

    @cached_property
    def _query(self) -> PairQuery:
        return pair_query(self._opened, self._opened.feature_sql)

    @cached_property
    def _train(self) -> Pairs:
        return self._query.run(self._points["train"], SHARE)

    @cached_property
    def _tuning(self) -> Pairs:
        return self._query.run(self._points["validation"][: self._tuning_size])

    @cached_property
    def _validation(self) -> Pairs:
        start = self._tuning_size
        return self._query.run(self._points["validation"][start : start + MOST_VALIDATION])

    @cached_property
    def _holdout(self) -> Pairs:
        return self._query.run(self._points["holdout"])

    @property
    def _tuning_size(self) -> int:
        return min(MOST_TUNING, len(self._points["validation"]) // 2)


def pair_query(opened: Snapshot, sql: str) -> PairQuery:
    """A query of pairs over the tables of a snapshot that this SQL reads."""
    tables = [opened.events_at_point, *(name for name in opened.lookups if name in sql)]
    return PairQuery(opened.store.question, sql, {name: opened.scan(name) for name in tables})


def _examples(ranker: rankers.Ranker, holdout: Pairs) -> list[dict[str, Any]]:
    """Points of different sessions with their next item and their best items."""
    points = holdout.points.drop_duplicates(KEYS[:2])
    places = points.index[np.linspace(0, len(points) - 1, EXAMPLES).astype(int)]
    frame = holdout.frame[holdout.frame["point"].isin(places)]
    best = recommend(ranker, frame, EXAMPLE_ITEMS)
    return [
        {
            "entity_id": point["entity_id"],
            "point_at": point["point_at"].isoformat(),
            "next": point["item"],
            "items": best[best["point"] == place].drop(columns="point").to_dict("records"),
        }
        for place, point in zip(places, points.loc[places].to_dict("records"), strict=True)
    ]


def _summary(points: pd.DataFrame) -> dict[str, Any]:
    times = points["point_at"]
    return {"from": times.min().isoformat(), "to": times.max().isoformat(), "rows": len(points)}
