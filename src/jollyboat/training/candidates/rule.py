"""The rule: a few thresholds on features that a shop owner would name.

Choose it when a model does not beat it: it is read in one breath, needs no library to serve, and cannot surprise.
Settings: `features` (names it may ask about), `seed`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

CASES = 4
PRIOR_ROWS = 10  # a case's rate counts as if it had seen this many rows at the overall rate


@dataclass(frozen=True)
class Rule:
    """Cases in order, the likeliest first; a row falls into the first it meets, and the last asks for nothing.

    A case has its `rate`, `when` (conditions: `feature`, `side` "below" or "at least", `threshold`; what is unknown
    counts as 0) and `moved` (what each feature moved the log-odds by on the way from the overall rate).
    """

    schema: FeatureSchema
    cases: list[dict[str, Any]]


def fit(train: Part, validation: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Rule:
    """The rule of at most four cases that tells the training rows apart best; validation is not needed."""
    from sklearn.tree import DecisionTreeRegressor  # not at the top: a rule predicts without scikit-learn

    numbers = [feature.name for feature in schema.features if feature.kind == "number"]
    varying = {name: each for name, each in _values(schema, train.features, numbers).items() if np.ptp(each) > 0}
    asked = {name: varying[name] for name in settings.get("features", ()) if name in varying} or varying
    if not asked:
        return Rule(schema, [{"rate": float(train.label.mean()), "when": [], "moved": {}}])
    tree = DecisionTreeRegressor(  # of labels 0 and 1: its squared error is the Gini impurity, its values are rates
        max_leaf_nodes=CASES,
        min_samples_leaf=max(5, len(train) // 100),
        min_impurity_decrease=1e-9,  # else it parts rows of equal rates
        random_state=settings.get("seed", 0),
    )
    tree.fit(np.column_stack(list(asked.values())), train.label)
    cases = sorted(_cases(tree.tree_, asked), key=lambda case: -case["rate"])
    return Rule(schema, [*cases[:-1], cases[-1] | {"when": []}])


def refit(model: Rule, rows: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Rule:
    """The same on these rows."""
    return fit(rows, rows, schema, settings)


def predict_proba(model: Rule, features: pd.DataFrame) -> np.ndarray:
    """The rate of the case that each row falls into, as training knew it."""
    return np.array([case["rate"] for case in model.cases])[_fall(model, features)]


def explain(model: Rule, features: pd.DataFrame) -> pd.DataFrame:
    """What each question on a row's way moved the log-odds by; a row's sum is its distance from the overall rate.

    Source: Saabas (2014), "Interpreting random forests".
    """
    moved = pd.DataFrame([case["moved"] for case in model.cases], columns=model.schema.names, dtype=float).fillna(0)
    return moved.iloc[_fall(model, features)].set_index(features.index)


def describe(model: Rule) -> str:
    """The rule in one sentence, the likeliest case first."""
    *told, last = model.cases
    if not told:
        return f"Every session is given the same chance of {_percent(last)}, for no feature tells them apart."
    cases = [f"{_percent(case)} when {' and '.join(_words(each) for each in case['when'])}" for case in told]
    return f"The chance of the outcome is {'; '.join(cases)}; otherwise {_percent(last)}."


def save(model: Rule, folder: Path) -> None:
    """Writes rule.json into the folder."""
    stored = {"schema": model.schema.to_dict(), "cases": model.cases}
    (folder / "rule.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Rule:
    """The rule that `save` wrote."""
    stored = json.loads((folder / "rule.json").read_text(encoding="utf-8"))
    return Rule(FeatureSchema.from_dict(stored["schema"]), stored["cases"])


def _cases(tree: Any, asked: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The leaves of scikit-learn's tree, each with the conditions on its way.

    Rates are m-estimates, Cestnik (1990), "Estimating probabilities".
    """
    rows, overall = tree.n_node_samples, tree.value[0, 0, 0]
    rate = (rows * tree.value[:, 0, 0] + PRIOR_ROWS * overall) / (rows + PRIOR_ROWS)
    log_odds = np.log(rate / (1 - rate))
    cases, waiting = [], [(0, {}, {})]
    while waiting:
        node, when, moved = waiting.pop()
        if tree.children_left[node] < 0:
            cases.append({"rate": float(rate[node]), "when": list(when.values()), "moved": moved})
            continue
        name = list(asked)[tree.feature[node]]
        threshold = _readable(asked[name], tree.threshold[node])
        for side, child in (("below", tree.children_left[node]), ("at least", tree.children_right[node])):
            condition = {"feature": name, "side": side, "threshold": threshold}
            step = moved.get(name, 0.0) + float(log_odds[child] - log_odds[node])
            # a later threshold on the same side is the narrower one
            waiting.append((child, when | {(name, side): condition}, moved | {name: step}))
    return cases


def _readable(values: np.ndarray, threshold: float) -> float:
    """The shortest number that parts the values as the threshold does: a whole one, else as few digits as will do."""
    tries = [np.floor(threshold) + 1, *(float(f"{threshold:.{digits}g}") for digits in range(1, 17))]
    left = values <= threshold
    return float(next((each for each in tries if np.array_equal(values < each, left)), np.nextafter(threshold, np.inf)))


def _values(schema: FeatureSchema, features: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
    ordered = [name for name in schema.names if name in names]
    return dict(zip(ordered, np.nan_to_num(schema.matrix(features, ordered)).T, strict=True))


def _fall(model: Rule, features: pd.DataFrame) -> np.ndarray:
    """The number of the case that each row falls into."""
    values = _values(model.schema, features, [each["feature"] for case in model.cases for each in case["when"]])
    met = np.ones((len(model.cases), len(features)), dtype=bool)
    for case, rows in zip(model.cases, met, strict=True):
        for condition in case["when"]:
            is_below = values[condition["feature"]] < condition["threshold"]
            rows &= is_below if condition["side"] == "below" else ~is_below
    return met.argmax(axis=0)


def _words(condition: dict[str, Any]) -> str:
    return f"{condition['feature'].replace('_', ' ')} is {condition['side']} {condition['threshold']:g}"


def _percent(case: dict[str, Any]) -> str:
    return f"{100 * case['rate']:.0f} %" if case["rate"] >= 0.1 else f"{100 * case['rate']:.2g} %"
