"""The candidates of a ranking question, simplest first: popularity, co-visits, boosted trees."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jollyboat.ranking.pairs import Pairs
from jollyboat.store import UserError
from jollyboat.training.schema import FeatureSchema

if TYPE_CHECKING:
    from xgboost import XGBRanker

POPULARITY, COVISITS, XGBOOST = CANDIDATES = ("popularity", "covisits", "xgboost")
NOT_PARAMETERS = {"seed", "increasing"}
TIE = 1e-6  # less than any co-visit score
PATIENCE = 20
DESCRIPTIONS = {
    POPULARITY: "The items that most sessions of the tenant viewed, the same for every session.",
    COVISITS: "What is often viewed after the session's last items, then the popular items.",
    XGBOOST: "Boosted trees that rank the candidates by features of session, item and both.",
}
DEFAULTS = {
    "n_estimators": 400,
    "learning_rate": 0.15,
    "max_depth": 5,
    "min_child_weight": 1,
    "subsample": 0.8,
    "max_bin": 128,
    "n_jobs": 1,
    "objective": "rank:ndcg",
    "lambdarank_pair_method": "topk",
    "lambdarank_num_pair_per_sample": 20,
}


@dataclass(frozen=True)
class Ranker:
    """A candidate that gives each pair a score; a higher one is a better place in its point."""

    name: str
    schema: FeatureSchema | None = None
    model: "XGBRanker | None" = None

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """The score of each pair of the frame."""
        popularity = 1 / frame["popularity_rank"].to_numpy(dtype=float, na_value=np.inf)
        if self.name == POPULARITY:
            return popularity
        if self.name == COVISITS:
            covisits = frame["covisit_score"].to_numpy(dtype=float, na_value=0)
            return covisits + TIE * popularity
        if frame.empty:
            return np.empty(0)
        return self.model.predict(self.schema.matrix(frame)).astype(float)

    @property
    def description(self) -> str:
        """How it ranks, in a sentence."""
        return DESCRIPTIONS[self.name]

    def importance(self) -> dict[str, float]:
        """Each feature's share of all splits' gain, the largest first; empty without trees."""
        if self.model is None:
            return {}
        shares = zip(self.schema.names, self.model.feature_importances_.tolist(), strict=True)
        return dict(sorted(shares, key=lambda each: -each[1]))

    def save(self, folder: Path) -> None:
        """Write ranker.json and, of trees, XGBoost's own file."""
        about = {"name": self.name, "schema": self.schema and self.schema.to_dict()}
        text = json.dumps(about, indent=1, allow_nan=False) + "\n"
        (folder / "ranker.json").write_text(text, encoding="utf-8")
        if self.model is not None:
            self.model.save_model(folder / "model.ubj")


def load(folder: Path) -> Ranker:
    """The ranker that `save` wrote, on one thread."""
    about = json.loads((folder / "ranker.json").read_text(encoding="utf-8"))
    if about["name"] != XGBOOST:
        return Ranker(about["name"])
    from xgboost import XGBRanker

    model = XGBRanker(n_jobs=1)
    model.load_model(folder / "model.ubj")
    model.get_booster().set_param({"nthread": 1})
    return Ranker(XGBOOST, FeatureSchema.from_dict(about["schema"]), model)


def fit(name: str, train: Pairs | None, validation: Pairs | None, settings: Mapping) -> Ranker:
    """The candidate of this name; only trees learn from the parts. UserError for another name.

    `settings` has the seed and parameters of XGBRanker; `increasing` is one of classifiers and is
    ignored. Points without their next item among the pairs teach nothing and are left out.
    """
    if name not in CANDIDATES:
        raise UserError(
            f"A ranking has no candidate {name!r:.40}; it has {', '.join(CANDIDATES)}. Correct "
            "candidates under [questions.<name>.train] in project.toml."
        )
    if name != XGBOOST:
        return Ranker(name)
    from xgboost import XGBRanker

    parameters = DEFAULTS | {key: settings[key] for key in settings.keys() - NOT_PARAMETERS}
    if unknown := sorted(parameters.keys() - XGBRanker().get_params().keys() - DEFAULTS.keys()):
        raise UserError(f"XGBRanker has no parameter {unknown[0]}. Remove it from project.toml.")
    schema = FeatureSchema.from_frame(train.features)
    model = XGBRanker(
        feature_types=["q" if each.kind == "number" else "c" for each in schema.features],
        enable_categorical=True,
        early_stopping_rounds=PATIENCE,
        eval_metric="map@20",  # with one right item, MRR@20
        random_state=settings.get("seed", 0),
        **parameters,
    )
    (rows, label, group), tuning = (_matrix(part, schema) for part in (train, validation))
    model.fit(
        rows,
        label,
        qid=group,
        eval_set=[tuning[:2]],
        eval_qid=[tuning[2]],
        verbose=False,
    )
    return Ranker(name, schema, model)


def _matrix(pairs: Pairs, schema: FeatureSchema) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    point, is_next = (pairs.frame[name].to_numpy() for name in ("point", "is_next"))
    if not is_next.any():
        raise UserError(
            "No point of the train or the validation part has its next item among its candidates. "
            "Add more days of logs, then run `make data`."
        )
    rows = np.bincount(point, is_next, len(pairs.points))[point] > 0
    matrix = schema.matrix(pairs.features[rows]).astype(np.float32)
    return matrix, is_next[rows].astype(int), point[rows]
