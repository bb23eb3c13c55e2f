"""For whom a model works: by named columns, and by a search for the least calibrated segments."""

from typing import Any

import numpy as np
import pandas as pd

from jollyboat.training.evaluate import Array, Ranking, difference
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

FEW_POSITIVES = 20  # with fewer, average precision of one model varies by 0.1 between samples
MOST_VALUES = 50  # of a segment's column that are judged, the largest ones
SPANS = 4  # that a number with many values is cut into
LEAVES, LEAST_ROWS, REPORTED = 12, 100, 6  # of the search
COMMON_VALUES = 8  # of a category that the search splits on


def segment_columns(part: Part, names: list[str]) -> pd.DataFrame:
    """The columns to segment by, as texts; `day` is the day of the point."""
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

    Each has segment, value, rows, positives, rate, mean_probability, average_precision and
    too_small (too few positives or negatives to judge). With `baseline`, segments that can be
    judged have `against_baseline`. Beyond MOST_VALUES, a column's smallest values are one entry.
    """
    label, probability, entries = np.asarray(label), np.asarray(probability), []
    for name in segments.columns:
        texts = _merge_small(segments[name])
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
    """The segments with the worst calibration, the worst first, as entries of `by_segment`.

    A shallow tree finds them in one half of the rows; the other half judges them. `gap` (rate less
    mean probability) is thus free of the search's own bias.
    """
    from sklearn.tree import DecisionTreeRegressor

    names, inputs = _tree_inputs(part.features, schema)
    searched = np.arange(len(part)) % 2 == 0
    least = max(LEAST_ROWS, int(searched.sum()) // 50)
    if searched.sum() < 2 * least:
        return []
    tree = DecisionTreeRegressor(max_leaf_nodes=LEAVES, min_samples_leaf=least, random_state=seed)
    tree.fit(inputs[searched], (part.label - probability)[searched])
    label, probability = part.label[~searched], probability[~searched]
    leaves, entries = tree.apply(inputs[~searched]), []
    for leaf, conditions in _paths(tree.tree_, names).items():
        rows = leaves == leaf
        if rows.any():
            entry = _judge(label[rows], probability[rows])
            gap = entry["rate"] - entry["mean_probability"]
            entries.append({"segment": "search", "value": conditions, **entry, "gap": gap})
    entries.sort(key=lambda entry: -abs(entry["gap"]) * np.sqrt(entry["rows"]))
    return entries[:REPORTED]


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
    """Each value as a text; a number with more than ten values by its span."""
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not is_number or column.nunique() <= 10:
        return column.astype("string").fillna("(unknown)")
    edges = np.unique(column.quantile(np.arange(1, SPANS) / SPANS))
    names = np.array([f"below {edges[0]:g}", *(f"from {edge:g}" for edge in edges)])
    spans = names[np.searchsorted(edges, column.to_numpy(dtype=float), side="right")]
    return pd.Series(np.where(column.isna(), "(unknown)", spans))


def _merge_small(texts: pd.Series) -> pd.Series:
    """The texts, with one text for all beyond the most frequent values."""
    values = texts.value_counts().index
    if len(values) <= MOST_VALUES:
        return texts
    others = f"({len(values) - MOST_VALUES:,} others)"
    return texts.where(texts.isin(values[:MOST_VALUES]), others)


def _tree_inputs(features: pd.DataFrame, schema: FeatureSchema) -> tuple[list[str], Array]:
    """The tree's columns: numbers as they are, and an indicator of each common category."""
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
    """The conditions on the path to each leaf, in words."""
    paths, pending = {}, [(0, [])]
    while pending:
        node, conditions = pending.pop()
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            paths[node] = " and ".join(dict.fromkeys(conditions)) or "everywhere"
            continue
        name, _, value = names[tree.feature[node]].partition("=")
        words, threshold = name.replace("_", " "), tree.threshold[node]
        below, above = f"{words} is not {value}", f"{words} is {value}"
        if not value:
            below, above = f"{words} at most {threshold:.4g}", f"{words} over {threshold:.4g}"
        pending += [(left, [*conditions, below]), (right, [*conditions, above])]
    return paths
