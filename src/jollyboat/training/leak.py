"""Signs of a leak: one feature that predicts too well, or holdout rows that training also has."""

from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part, Split

MOST_ROWS = 50_000  # that a single feature is judged on
REPORTED = 3


def look_for_leaks(split: Split, schema: FeatureSchema) -> dict[str, Any]:
    """Figures for the gate's leak check.

    - features: the three highest ROC AUCs on validation of a single feature. A category counts by
      its rate in train.
    - shared_rows: the share of holdout rows that equal a row of train, or of validation if that
      share is larger, in every feature and the label.
    - shared_by_chance: the share that repeats within train, or of validation in train, whichever
      is smaller, plus two standard errors.
    """
    aucs = _single_feature_aucs(split, schema)
    parts = (split.train, split.validation, split.holdout)
    train, validation, holdout = (_hashes(part) for part in parts)
    by_chance = min(np.isin(validation, train).mean(), _repeat_rate(train))
    error = np.sqrt(by_chance * (1 - by_chance) * (1 / len(holdout) + 1 / len(validation)))
    shared = max(np.isin(holdout, earlier).mean() for earlier in (train, validation))
    return {
        "features": dict(sorted(aucs.items(), key=lambda item: -item[1])[:REPORTED]),
        "shared_rows": float(shared),
        "shared_by_chance": float(by_chance + 2 * error),
    }


def _single_feature_aucs(split: Split, schema: FeatureSchema) -> dict[str, float]:
    label = split.validation.label[:MOST_ROWS]
    train = schema.matrix(split.train.features)
    validation = schema.matrix(split.validation.features[:MOST_ROWS])
    aucs = {}
    for place, feature in enumerate(schema.features):
        values = validation[:, place]
        if feature.kind == "category":
            rates = pd.Series(split.train.label).groupby(train[:, place]).mean()
            values = pd.Series(values).map(rates).to_numpy()
        # a missing value ranks lowest or highest, whichever predicts better
        both = [_auc(label, np.where(np.isnan(values), end, values)) for end in (-np.inf, np.inf)]
        aucs[feature.name] = float(max(max(auc, 1 - auc) for auc in both))
    return aucs


def _auc(label: np.ndarray, values: np.ndarray) -> float:
    positives = label.sum()
    ranks = pd.Series(values).rank().to_numpy()
    pairs = positives * (len(label) - positives)
    return (ranks[label == 1].sum() - positives * (positives + 1) / 2) / pairs


def _hashes(part: Part) -> np.ndarray:
    rows = part.features.assign(label=part.label)
    texts = rows.select_dtypes(["object", "str"]).columns
    rows = rows.astype(dict.fromkeys(texts, "str"))  # a column of mixed types has no hash
    return pd.util.hash_pandas_object(rows, index=False).to_numpy()


def _repeat_rate(hashes: np.ndarray) -> float:
    """The chance that one more row repeats one of these: 1 - share of unique rows (Good, 1953)."""
    _, counts = np.unique(hashes, return_counts=True)
    return 1 - (counts == 1).sum() / len(hashes)
