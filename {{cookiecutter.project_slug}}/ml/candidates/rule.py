"""The rule: a few thresholds on features that a shop owner would name.

Choose it when a model does not beat it: it is read in one breath, needs no library to serve, and cannot surprise.
Settings: `features` (names it may ask about), `seed`.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml.schema import FeatureSchema
from ml.split import Part

LEAVES = 4
PRIOR_ROWS = 10  # a leaf's rate counts as if it had seen this many rows at the overall rate


@dataclass(frozen=True)
class Rule:
    """A small tree. A node has `rate` and `rows`; one that asks also `feature`, `below`, `null_below`, `yes`, `no`.

    A row goes to node `yes` when its value is below the threshold (or is null, where `null_below`), else to `no`.
    """

    schema: FeatureSchema
    nodes: list[dict[str, Any]]


def fit(train: Part, validation: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Rule:
    """The rule of at most four cases that tells the training rows apart best; validation is not needed."""
    from sklearn.tree import DecisionTreeClassifier  # not at the top: a rule predicts without scikit-learn

    varying = {
        name: values for name in schema.numbers if _varies(values := schema.matrix(train.features, [name])[:, 0])
    }
    names = [name for name in settings.get("features", ()) if name in varying] or list(varying)
    if not names:
        return Rule(schema, [_counted(train.label, train.label.mean())])
    values = np.column_stack([varying[name] for name in names])
    leaf = max(5, len(train) // 100)
    tree = DecisionTreeClassifier(
        max_leaf_nodes=LEAVES,
        min_samples_leaf=leaf,
        min_impurity_decrease=1e-9,  # else it parts rows of equal rates
        random_state=settings.get("seed", 0),
    )
    tree.fit(values, train.label)
    return Rule(schema, _nodes(tree.tree_, names, values, train.label))


def predict_proba(model: Rule, features: pd.DataFrame) -> np.ndarray:
    """The rate of the case that each row falls into, as training knew it."""
    return np.array([node["rate"] for node in model.nodes])[_path(model, features)[-1]]


def explain(model: Rule, features: pd.DataFrame) -> pd.DataFrame:
    """What each question on a row's way moved the log-odds by; a row's sum is its distance from the overall rate.

    Source: Saabas (2014), "Interpreting random forests".
    """
    moved = pd.DataFrame(0.0, index=features.index, columns=model.schema.names)
    rate = np.array([node["rate"] for node in model.nodes])
    log_odds = np.log(rate / (1 - rate))
    asked = np.array([model.schema.names.index(node["feature"]) if "feature" in node else -1 for node in model.nodes])
    steps = _path(model, features)
    result = moved.to_numpy(copy=True)
    for here, there in itertools.pairwise(steps):
        rows = np.flatnonzero(here != there)
        result[rows, asked[here[rows]]] += log_odds[there[rows]] - log_odds[here[rows]]
    return pd.DataFrame(result, index=features.index, columns=model.schema.names)


def describe(model: Rule) -> str:
    """The rule in one sentence, the likeliest case first."""
    cases = sorted(_cases(model.nodes, 0, []), key=lambda case: -case[0])
    if len(cases) == 1:
        return f"Every session is given the same chance of {_percent(cases[0][0])}, for no feature tells them apart."
    told = [f"{_percent(rate)} when {' and '.join(_conditions(questions))}" for rate, questions in cases[:-1]]
    return f"The chance of the outcome is {'; '.join(told)}; otherwise {_percent(cases[-1][0])}."


def save(model: Rule, folder: Path) -> None:
    """Writes rule.json into the folder."""
    stored = {"schema": model.schema.to_dict(), "nodes": model.nodes}
    (folder / "rule.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Rule:
    """The rule that `save` wrote."""
    stored = json.loads((folder / "rule.json").read_text(encoding="utf-8"))
    return Rule(FeatureSchema.from_dict(stored["schema"]), stored["nodes"])


def _varies(values: np.ndarray) -> bool:
    known = values[~np.isnan(values)]
    return len(known) > 0 and bool((known != known[0]).any())


def _nodes(tree: Any, names: list[str], values: np.ndarray, label: np.ndarray) -> list[dict[str, Any]]:
    """scikit-learn's tree as plain nodes; thresholds are made readable first, and the rates counted after."""
    nodes: list[dict[str, Any]] = []

    def grow(place: int, rows: np.ndarray) -> int:
        nodes.append(_counted(label[rows], label.mean()))
        here = len(nodes) - 1
        if tree.children_left[place] < 0:
            return here
        column = values[rows, tree.feature[place]]
        below = _readable(values[:, tree.feature[place]], float(tree.threshold[place]))
        null_below = bool(tree.missing_go_to_left[place])
        is_yes = np.where(np.isnan(column), null_below, column < below)
        nodes[here] |= {
            "feature": names[tree.feature[place]],
            "below": below,
            "null_below": null_below,
            "has_null": bool(np.isnan(column).any()),
            "is_count": _is_count(values[:, tree.feature[place]]),
        }
        nodes[here]["yes"] = grow(tree.children_left[place], rows[is_yes])
        nodes[here]["no"] = grow(tree.children_right[place], rows[~is_yes])
        return here

    grow(0, np.arange(len(label)))
    return nodes


def _counted(label: np.ndarray, overall: float) -> dict[str, Any]:
    """A node's rows and rate. Source: the m-estimate, Cestnik (1990), "Estimating probabilities"."""
    rate = (label.sum() + PRIOR_ROWS * overall) / (len(label) + PRIOR_ROWS)
    return {"rate": float(np.clip(rate, 1e-6, 1 - 1e-6)), "rows": len(label)}


def _readable(column: np.ndarray, threshold: float) -> float:
    """The threshold as a person would say it: the next whole number for counts, else three digits."""
    if _is_count(column):
        return float(np.floor(threshold) + 1)
    known = column[~np.isnan(column)]
    rounded = float(f"{threshold:.3g}")
    low, high = known[known <= threshold].max(), known[known > threshold].min()
    return rounded if low < rounded <= high else float((low + high) / 2)


def _is_count(column: np.ndarray) -> bool:
    known = column[~np.isnan(column)]
    return bool((known == np.floor(known)).all())


def _path(model: Rule, features: pd.DataFrame) -> list[np.ndarray]:
    """The node of each row after each question; the last entry is where it ends."""
    names = sorted({node["feature"] for node in model.nodes if "feature" in node})
    values = dict(zip(names, model.schema.matrix(features, names).T, strict=True))
    here = np.zeros(len(features), dtype=int)
    steps = [here]
    for place, node in enumerate(model.nodes):  # a node stands before those it leads to
        if "feature" not in node:
            continue
        column = values[node["feature"]]
        is_yes = np.where(np.isnan(column), node["null_below"], column < node["below"])
        here = np.where(here == place, np.where(is_yes, node["yes"], node["no"]), here)
        steps.append(here)
    return steps


def _cases(nodes: list[dict[str, Any]], place: int, asked: list[dict]) -> list[tuple[float, list[dict]]]:
    node = nodes[place]
    if "feature" not in node:
        return [(node["rate"], asked)]
    yes, no = (
        {
            "feature": node["feature"],
            "span": (low, high),
            "is_count": node["is_count"],
            "or_unknown": node["has_null"] and node["null_below"] == (high is not None),
        }
        for low, high in ((None, node["below"]), (node["below"], None))
    )
    return _cases(nodes, node["yes"], [*asked, yes]) + _cases(nodes, node["no"], [*asked, no])


def _conditions(questions: list[dict]) -> list[str]:
    """One condition per feature: several thresholds on one feature become a span."""
    told = []
    for name in dict.fromkeys(question["feature"] for question in questions):
        mine = [question for question in questions if question["feature"] == name]
        low = max((q["span"][0] for q in mine if q["span"][0] is not None), default=None)
        high = min((q["span"][1] for q in mine if q["span"][1] is not None), default=None)
        unknown = " or unknown" if all(q["or_unknown"] for q in mine) else ""
        told.append(f"{name.replace('_', ' ')} is {_span(low, high, mine[0]['is_count'])}{unknown}")
    return told


def _span(low: float | None, high: float | None, is_count: bool) -> str:
    if high is None:
        return f"at least {low:g}"
    if not is_count:
        return f"below {high:g}" if low is None else f"between {low:g} and {high:g}"
    if low is None:
        return f"at most {high - 1:g}"
    return f"{low:g}" if high - low == 1 else f"{low:g} to {high - 1:g}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %" if rate >= 0.1 else f"{100 * rate:.2g} %"
