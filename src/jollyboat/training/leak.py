"""What looks too good to be true: a feature alone, or rows of the past found again in the holdout."""

from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Split

MOST_ROWS = 50_000  # that a feature is judged on alone
NAMED = 3


def look_for_leaks(split: Split, schema: FeatureSchema) -> dict[str, Any]:
    """Figures for the gate's leak alarm.

    - features: the ROC AUC on validation of the three features that alone tell most (a category by its rate in train).
    - shared_rows: share of the holdout's rows that stand in train, or in validation if that is more, with every feature
      and the label the same.
    - shared_by_chance: how often rows of few values repeat anyway, within train or in validation, whichever is less,
      and two standard errors of that.
    """
    alone = _alone(split, schema)
    train, validation, holdout = (
        _hashes(part) for part in (split.train, split.validation, split.holdout)
    )
    by_chance = min(np.isin(validation, train).mean(), _repeats(train))
    error = np.sqrt(by_chance * (1 - by_chance) * (1 / len(holdout) + 1 / len(validation)))
    return {
        "features": dict(sorted(alone.items(), key=lambda item: -item[1])[:NAMED]),
        "shared_rows": float(max(np.isin(holdout, known).mean() for known in (train, validation))),
        "shared_by_chance": float(by_chance + 2 * error),
    }


def _alone(split: Split, schema: FeatureSchema) -> dict[str, float]:
    label = split.validation.label[:MOST_ROWS]
    positives = label.sum()
    pairs = positives * (len(label) - positives)
    known, asked = (
        schema.matrix(split.train.features),
        schema.matrix(split.validation.features[:MOST_ROWS]),
    )
    found = {}
    for place, feature in enumerate(schema.features):
        values = asked[:, place]
        if feature.kind == "category":
            rates = pd.Series(split.train.label).groupby(known[:, place]).mean()
            values = pd.Series(values).map(rates).to_numpy()
        # what is unknown ranks lowest or highest, whichever tells more
        aucs = []
        for unknown in (-np.inf, np.inf):
            ranks = pd.Series(np.where(np.isnan(values), unknown, values)).rank().to_numpy()
            auc = (ranks[label == 1].sum() - positives * (positives + 1) / 2) / pairs
            aucs += [auc, 1 - auc]
        found[feature.name] = float(max(aucs))
    return found


def _hashes(part: Any) -> np.ndarray:
    rows = part.features.assign(label=part.label)
    mixed = rows.select_dtypes("object").columns
    return pd.util.hash_pandas_object(
        rows.astype(dict.fromkeys(mixed, "str")), index=False
    ).to_numpy()


def _repeats(hashes: np.ndarray) -> float:
    """How often one more row would be one of these: 1 less the share that stands there once (Good, 1953)."""
    _, counts = np.unique(hashes, return_counts=True)
    return 1 - (counts == 1).sum() / len(hashes)
