"""Signs of a leak: a feature that predicts too well, a telling value, rows of the past that return.

Features are judged on rows before the holdout, at most MOST_ROWS of them, evenly spaced.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.pages.terminal import format_percent
from jollyboat.training.schema import MOST_CATEGORIES, Feature, FeatureSchema
from jollyboat.training.split import Part, Split, join, thin

MOST_ROWS = 50_000
REPORTED = 3
LEAK = "Possible leak: "
NOTABLE = 0.9  # ROC AUC of one feature, from which it is a possible leak
COLLINEAR = 0.95  # correlation of two features' rates of the outcome, from which they are one group
LEAVES, LEAST_ROWS = 64, 5
LEAST_EXPECTED = 10  # rows; where so many are expected, none is a chance of 5 in 100,000
FEW, FEW_IN_A_SPIKE = 0.01, 0.1  # of the expected rows; gaps in whole seconds hit a spike by chance
LEAST_SHARE = 0.02  # of the sessions, or of those with the outcome, that a telling value is about
SPIKE_SHARE, SPIKE_RATIO = 0.05, 10  # a spike's rows among all, and beside each neighbour's
FINDINGS = (
    "none of them has the outcome",
    "each of them has the outcome",
    "no other session has the outcome",
    "each other session has the outcome",
)


def look_for_leaks(split: Split, schema: FeatureSchema) -> dict[str, Any]:
    """Figures for the gate's leak checks.

    - features: the three highest ROC AUCs of a single feature, which counts by the outcome's rate
      in its leaf of a tree that the other half of the rows fits.
    - collinear: for each feature that is named, those with the same rates.
    - values: the values that hold no outcome, or all outcomes, though at least ten were expected
      otherwise, and LEAST_SHARE of the sessions are concerned; see `_telling_value`.
    - shared_rows: the share of holdout rows that equal a row of train, or of validation if that
      exceeds chance by more, in every feature and the label.
    - shared_by_chance: the share that a tree expects, which learned from that part's own rows which
      of them repeat, plus two standard errors.
    """
    from sklearn.metrics import roc_auc_score

    past = thin(join(split.train, split.validation), MOST_ROWS)
    rates = _rates(past, schema)
    aucs = {
        name: float(roc_auc_score(past.label, rates[:, place])) if rates.any() else 0.5
        for place, name in enumerate(schema.names)
    }
    values = [_telling_value(feature, past) for feature in schema.features]
    values = sorted(filter(None, values), key=lambda one: (not one["is_spike"], -one["expected"]))
    groups = _groups(schema.names, rates)
    features = _leaders(sorted(aucs, key=lambda name: -aucs[name]), groups)[:REPORTED]
    named = _leaders([one["feature"] for one in values], groups)[:REPORTED]
    shared, by_chance = _returning_rows(split, schema)
    return {
        "features": {name: aucs[name] for name in features},
        "collinear": {name: groups[name] for name in dict.fromkeys([*features, *named])},
        "values": [one for one in values if one["feature"] in named],
        "shared_rows": shared,
        "shared_by_chance": by_chance,
    }


def format_auc(leaks: Mapping[str, Any], name: str) -> str:
    """How well this feature alone ranks the outcomes, with the features that say the same."""
    auc = leaks["features"][name]
    prefix = LEAK if auc >= NOTABLE else ""
    others = _format_others(leaks, name)
    return f"{prefix}{name} alone ranks the outcomes with a ROC AUC of {auc:.3g}{others}."


def format_value(leaks: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """What a value of a feature tells about the outcome."""
    name, others = one["feature"], _format_others(leaks, one["feature"])
    share = f"{format_percent(one['share'])} of the sessions"
    return f"{LEAK}{name} is {one['value']} in {share}, and {one['finding']}{others}."


def describe_leaks(leaks: Mapping[str, Any]) -> list[str]:
    """A sentence for each possible leak."""
    notable = [name for name, auc in leaks["features"].items() if auc >= NOTABLE]
    sentences = [format_auc(leaks, name) for name in notable]
    return sentences + [format_value(leaks, one) for one in leaks["values"]]


def _format_others(leaks: Mapping[str, Any], name: str) -> str:
    others = leaks.get("collinear", {}).get(name)
    return f" (collinear with it: {', '.join(others)})" if others else ""


def _rates(part: Part, schema: FeatureSchema) -> np.ndarray:
    """Rows by features: the outcome's rate in a small tree's leaf, by a tree of the other half."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    matrix, label = schema.matrix(part.features), part.label
    if not 2 <= label.sum() <= len(label) - 2:
        return np.zeros(matrix.shape)
    tree = DecisionTreeClassifier(
        max_leaf_nodes=LEAVES, min_samples_leaf=LEAST_ROWS, random_state=0
    )
    halves = StratifiedKFold(2, shuffle=True, random_state=0)
    columns = [
        cross_val_predict(tree, values[:, None], label, cv=halves, method="predict_proba")
        for values in matrix.T
    ]
    return np.column_stack([column[:, 1] for column in columns])


def _groups(names: list[str], rates: np.ndarray) -> dict[str, list[str]]:
    """For each feature the others whose rates are collinear with its own."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant has no correlation
        is_alike = np.atleast_2d(np.corrcoef(rates, rowvar=False)) >= COLLINEAR
    return {
        name: [other for place, other in enumerate(names) if alike[place] and other != name]
        for name, alike in zip(names, is_alike, strict=True)
    }


def _leaders(names: list[str], groups: Mapping[str, list[str]]) -> list[str]:
    """The names without those that are collinear with an earlier one."""
    leaders: list[str] = []
    for name in names:
        if not set(leaders) & set(groups[name]):
            leaders.append(name)
    return leaders


def _telling_value(feature: Feature, part: Part) -> dict[str, Any] | None:
    """The value of this feature that tells most about the outcome; None if no value does.

    `is_spike` is true for a number other than 0 that a continuous feature repeats: it has over
    MOST_CATEGORIES values, and the neighbours of this one are rare. Zero is often honest: no cart.
    """
    column = part.features[feature.name]
    if feature.kind == "number":
        column = pd.Series(feature.values(column))
    by_value = pd.Series(part.label).groupby(column, dropna=False).agg(["size", "sum"])
    rows, hits = by_value["size"].to_numpy(), by_value["sum"].to_numpy()
    n, positives = len(part), part.label.sum()
    is_known = by_value.index.notna()
    around = np.pad(rows * is_known, 1)
    is_spike = (
        (feature.kind == "number" and len(rows) > MOST_CATEGORIES)
        & is_known
        & (by_value.index != 0)
        & (rows >= SPIKE_SHARE * n)
        & (rows >= SPIKE_RATIO * np.maximum(around[:-2], around[2:]))
    )
    others, missed, rate = n - rows, positives - hits, positives / n
    counts = np.array([hits, rows - hits, missed, others - missed])
    expected = np.array([rows * rate, rows * (1 - rate), others * rate, others * (1 - rate)])
    few = expected * np.where(is_spike, FEW_IN_A_SPIKE, FEW)
    everywhere = np.ones(len(rows))
    shares = np.array([rows / n, hits / max(positives, 1), everywhere, everywhere])
    is_slight = (expected < LEAST_EXPECTED) | (shares < LEAST_SHARE)
    expected[(counts > few) | is_slight] = 0
    if not expected.any():
        return None
    strongest = expected.max(axis=0)
    place = int((strongest + n * (is_spike & (strongest > 0))).argmax())  # a spike comes first
    kind, value = int(expected[:, place].argmax()), by_value.index[place]
    text = "unknown" if pd.isna(value) else f"{value:.6g}" if feature.kind == "number" else value
    return {
        "feature": feature.name,
        "value": text,
        "share": float(rows[place] / n),
        "finding": ("nearly " if counts[kind, place] else "") + FINDINGS[kind],
        "expected": float(strongest[place]),
        "is_spike": bool(is_spike[place]),
    }


def _returning_rows(split: Split, schema: FeatureSchema) -> tuple[float, float]:
    """The share of holdout rows that an earlier part has too, and the share by chance.

    Chance is that of rows as the holdout's are: visits of one event are alike, long ones are not.
    """
    from sklearn.tree import DecisionTreeRegressor

    holdout, judged = _hashes(split.holdout), schema.matrix(split.holdout.features)
    shares = []
    for earlier in (split.train, split.validation):
        hashes = _hashes(earlier)
        repeats = pd.Series(hashes).duplicated(keep=False).to_numpy(dtype=float)
        learned = np.linspace(0, len(earlier) - 1, min(len(earlier), MOST_ROWS)).astype(int)
        tree = DecisionTreeRegressor(
            max_leaf_nodes=LEAVES, min_samples_leaf=4 * LEAST_ROWS, random_state=0
        )
        tree.fit(schema.matrix(earlier.features)[learned], repeats[learned])
        chance = float(tree.predict(judged).mean())
        error = np.sqrt(chance * (1 - chance) * (1 / len(holdout) + 1 / len(earlier)))
        shares.append((float(np.isin(holdout, hashes).mean()), float(chance + 2 * error)))
    return max(shares, key=lambda pair: pair[0] - pair[1])


def _hashes(part: Part) -> np.ndarray:
    rows = part.features.assign(label=part.label)
    texts = rows.select_dtypes(["object", "str"]).columns
    rows = rows.astype(dict.fromkeys(texts, "str"))  # a column of mixed types has no hash
    return pd.util.hash_pandas_object(rows, index=False).to_numpy()
