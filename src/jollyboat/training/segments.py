"""On whom a model works: by the columns that are named, and where a search finds it furthest from what happened."""

from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.evaluate import Array, Ranking, difference
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

FEW_POSITIVES = 20  # with fewer, average precision of one model moves by 0.1 from sample to sample
MOST_VALUES = 50  # of a column that segments: the largest are judged
SPANS = 4  # that a number of many values is cut into
LEAVES, LEAST_ROWS, NAMED = 12, 100, 6  # of the search
COMMON_VALUES = 8  # of a category, which the search asks about


def segment_columns(part: Part, names: list[str]) -> pd.DataFrame:
    """The columns to segment by, each value as a text; `day` is the day of the point, a number of many values is cut."""
    rows = pd.concat([part.keys, part.features], axis=1)
    rows["day"] = part.keys["point_at"].dt.strftime("%Y-%m-%d")
    return pd.DataFrame({name: _texts(rows[name]) for name in names if name in rows})


def by_segment(
    segments: pd.DataFrame,
    label: Array,
    probability: Array,
    baseline: Array | None = None,
    resamples: int = 0,
    seed: int = 0,
    groups: Array | None = None,
) -> list[dict[str, Any]]:
    """One entry per value of each column of `segments`, the largest first.

    Each has segment, value, rows, positives, rate, mean_probability, average_precision and too_small, which says that
    there are too few positives (or negatives) to judge by; what can be judged has its lead `against_baseline`, too.
    Of a column with more than MOST_VALUES values the smallest are one entry together.
    """
    label, probability, entries = np.asarray(label), np.asarray(probability), []
    for name in segments.columns:
        texts, counts = segments[name], segments[name].value_counts()
        if len(counts) > MOST_VALUES:
            texts = texts.where(
                texts.isin(counts.index[:MOST_VALUES]), f"({len(counts) - MOST_VALUES:,} others)"
            )
        for value in texts.value_counts().index:
            rows = (texts == value).to_numpy(dtype=bool)
            entry = {"segment": name, "value": value, **_judge(label[rows], probability[rows])}
            if baseline is not None and not entry["too_small"]:
                by = None if groups is None else groups[rows]
                entry["against_baseline"] = difference(
                    label[rows], probability[rows], baseline[rows], resamples, seed, by
                )
            entries.append(entry)
    return entries


def search_segments(
    part: Part, schema: FeatureSchema, probability: Array, seed: int
) -> list[dict[str, Any]]:
    """Where probabilities are furthest from what happened, the worst first, as entries like those of `by_segment`.

    A shallow tree looks for them in one half of the rows, each is judged on the other half: what it is off by there
    (`gap`, rate less mean probability) has not been searched for.
    """
    from sklearn.tree import DecisionTreeRegressor

    names, asked = _questions(part.features, schema)
    here = np.arange(len(part)) % 2 == 0
    tree = DecisionTreeRegressor(
        max_leaf_nodes=LEAVES,
        min_samples_leaf=max(LEAST_ROWS, int(here.sum()) // 50),
        random_state=seed,
    )
    if here.sum() < 2 * tree.min_samples_leaf:
        return []
    tree.fit(asked[here], (part.label - probability)[here])
    leaves, found = tree.apply(asked[~here]), []
    for leaf, where in _paths(tree.tree_, names).items():
        if (rows := leaves == leaf).any():
            entry = _judge(part.label[~here][rows], probability[~here][rows])
            found.append(
                {
                    "segment": "found",
                    "value": where,
                    **entry,
                    "gap": entry["rate"] - entry["mean_probability"],
                }
            )
    return sorted(found, key=lambda entry: -abs(entry["gap"]) * np.sqrt(entry["rows"]))[:NAMED]


def _judge(label: Array, probability: Array) -> dict[str, Any]:
    ranking = Ranking.of(label, probability)
    rows, positives = len(label), int(label.sum())
    return {
        "rows": rows,
        "positives": positives,
        "rate": positives / rows,
        "mean_probability": float(ranking.probability.mean()),
        "average_precision": float(ranking.average_precision(np.ones(rows))) if positives else None,
        "too_small": min(positives, rows - positives) < FEW_POSITIVES,
    }


def _texts(column: pd.Series) -> pd.Series:
    if (
        pd.api.types.is_numeric_dtype(column)
        and not pd.api.types.is_bool_dtype(column)
        and column.nunique() > 10
    ):
        edges = np.unique(column.quantile(np.arange(1, SPANS) / SPANS))
        starts = ["below " + format(edges[0], "g"), *(f"from {edge:g}" for edge in edges)]
        spans = np.array(starts)[np.searchsorted(edges, column.to_numpy(dtype=float), side="right")]
        return pd.Series(np.where(column.isna(), "(unknown)", spans))
    return column.astype("string").fillna("(unknown)")


def _questions(features: pd.DataFrame, schema: FeatureSchema) -> tuple[list[str], Array]:
    """What the tree may ask: numbers as they are, and whether a category is one of its common values."""
    names, columns = [], []
    for feature, values in zip(schema.features, schema.matrix(features).T, strict=True):
        if feature.kind == "number":
            names.append(feature.name)
            columns.append(values)
            continue
        common = pd.Series(values).value_counts().index[:COMMON_VALUES]
        names += [f"{feature.name}={feature.categories[int(code)]}" for code in common]
        columns += [(values == code).astype(float) for code in common]
    return names, np.column_stack(columns)


def _paths(tree: Any, names: list[str]) -> dict[int, str]:
    """The conditions on the way to each leaf, in words."""
    paths, waiting = {}, [(0, [])]
    while waiting:
        node, way = waiting.pop()
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            paths[node] = " and ".join(dict.fromkeys(way)) or "everywhere"
            continue
        name, _, value = names[tree.feature[node]].partition("=")
        words, cut = name.replace("_", " "), tree.threshold[node]
        below, above = (f"{words} is not {value}", f"{words} is {value}")
        if not value:
            below, above = f"{words} at most {cut:.4g}", f"{words} over {cut:.4g}"
        waiting += [(left, [*way, below]), (right, [*way, above])]
    return paths
