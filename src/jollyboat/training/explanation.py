"""Explanations: the effect of each feature on a row's log-odds, and a model in a sentence.

XGBoost is explained by TreeSHAP, logistic regression by its coefficients, a decision tree by the
path of a row, and every other classifier by occlusion, which is an estimate.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.pages.terminal import format_count, format_percent
from jollyboat.training.estimators import Model, kind
from jollyboat.training.schema import Feature

LEAST = 1e-6  # probabilities closer to 0 or 1 have no useful log-odds


def explain(model: Model, features: pd.DataFrame) -> pd.DataFrame:
    """The effect of each feature on the log-odds of each row.

    A row's effects sum to its log-odds less a constant, except where `is_estimate`.
    """
    matrix = model.schema.matrix(features)
    effects = _occlude(model, matrix) if is_estimate(model) else _explain_exactly(model, matrix)
    return pd.DataFrame(effects, index=features.index, columns=model.schema.names)


def is_estimate(model: Model) -> bool:
    """Whether the model is explained by occlusion."""
    return kind(model.last_step) not in METHODS or model.origins is None


def describe(model: Model) -> str:
    """The model in a sentence: a decision tree by its leaves, another one by its settings."""
    last = model.last_step
    if METHODS.get(kind(last)) is _follow_path and not is_estimate(model):
        return _describe_tree(model)
    words = [f"{name} {value:.4g}" for name, value in _changed_numbers(last).items()]
    settings = f", with {', '.join(words)}" if words else ""
    return (
        f"{type(last).__name__} over {format_count(len(model.schema.names), 'feature')}{settings}."
    )


def _explain_exactly(model: Model, matrix: np.ndarray) -> np.ndarray:
    by_column = METHODS[kind(model.last_step)](model.last_step, model.transform(matrix))
    effects = np.zeros(matrix.shape)
    for column, place in enumerate(model.origins):
        effects[:, place] += by_column[:, column]
    return effects


def _tree_shap(classifier: Any, columns: np.ndarray) -> np.ndarray:
    """TreeSHAP, Lundberg et al. (2020), "From local explanations to global understanding"."""
    import xgboost

    booster = classifier.get_booster()
    kinds = {"feature_types": booster.feature_types, "enable_categorical": True}
    rows = xgboost.DMatrix(columns, **kinds, nthread=1)
    trees = getattr(classifier, "best_iteration", -1) + 1  # 0 means all
    return booster.predict(rows, pred_contribs=True, iteration_range=(0, trees))[:, :-1]


def _weigh(classifier: Any, columns: np.ndarray) -> np.ndarray:
    return columns * classifier.coef_[0]


def _follow_path(classifier: Any, columns: np.ndarray) -> np.ndarray:
    """The effect of each split on a row's path; Saabas (2014), "Interpreting random forests"."""
    tree = classifier.tree_
    reached = _log_odds(tree.value[:, 0, 1])
    effects = np.zeros((tree.node_count, columns.shape[1]))
    for node in range(tree.node_count):  # a child's number is above its parent's
        for child in (tree.children_left[node], tree.children_right[node]):
            if child > 0:
                effects[child] = effects[node]
                effects[child, tree.feature[node]] += reached[child] - reached[node]
    return effects[classifier.apply(columns)]


METHODS: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "xgboost.XGBClassifier": _tree_shap,
    "sklearn.LogisticRegression": _weigh,
    "sklearn.LogisticRegressionCV": _weigh,
    "sklearn.DecisionTreeClassifier": _follow_path,
}


def _occlude(model: Model, matrix: np.ndarray) -> np.ndarray:
    """The mean change of the log-odds against typical values of each feature.

    Robnik-Sikonja and Kononenko (2008), "Explaining classifications for individual instances".
    """
    values, size = model.typical.shape
    places, effects = np.arange(size), np.zeros(matrix.shape)
    for number, row in enumerate(matrix):
        replaced = np.tile(row, (size, values, 1))
        replaced[places, :, places] = model.typical.T
        rows = np.vstack([row, replaced.reshape(-1, size)])
        own, *others = _log_odds(model.predict_matrix(rows))
        effects[number] = own - np.reshape(others, (size, values)).mean(axis=1)
    return effects


def _log_odds(probability: np.ndarray) -> np.ndarray:
    """The log-odds, finite for 0 and 1 too."""
    kept = np.clip(probability, LEAST, 1 - LEAST)
    return np.log(kept / (1 - kept))


def _changed_numbers(estimator: Any) -> dict[str, float]:
    """The numeric parameters that differ from their defaults."""
    if not hasattr(estimator, "get_params"):
        return {}
    try:
        defaults = type(estimator)().get_params()
    except TypeError:  # an estimator made of others has no defaults
        defaults = {}
    return {
        name: value
        for name, value in estimator.get_params().items()
        if isinstance(value, Real) and name not in ("missing", "n_jobs")
        if value != defaults.get(name)
    }


def _describe_tree(model: Model) -> str:
    """The leaves with their conditions, the most probable first."""
    tree, origins = model.last_step.tree_, model.origins
    leaves, pending = [], [(0, {})]
    while pending:
        node, conditions = pending.pop()
        if tree.children_left[node] < 0:
            leaves.append((tree.value[node, 0, 1], " and ".join(conditions.values())))
            continue
        place, threshold = origins[tree.feature[node]], tree.threshold[node]
        for is_above, child in enumerate((tree.children_left[node], tree.children_right[node])):
            words = _describe_condition(model.schema.features[place], bool(is_above), threshold)
            # a later condition on the same side is the narrower one
            pending.append((child, conditions | {(place, is_above): words}))
    *cases, (rate, _) = sorted(leaves, reverse=True)
    if not cases:
        return f"Every session has a chance of {format_percent(rate)}: no feature separates them."
    words = "; ".join(f"{format_percent(chance)} when {conditions}" for chance, conditions in cases)
    return f"The chance of the outcome is {words}; otherwise {format_percent(rate)}."


def _describe_condition(feature: Feature, is_above: bool, threshold: float) -> str:
    name = feature.name.replace("_", " ")
    if feature.kind == "number":
        return f"{name} is {'above' if is_above else 'at most'} {threshold:.4g}"
    first = math.floor(threshold) + 1
    values = feature.categories[first:] if is_above else feature.categories[:first]
    return f"{name} is {' or '.join(values)}"
