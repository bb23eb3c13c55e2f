"""How a model's answer follows each of its most important features: partial dependence."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jollyboat.training.estimators import Model
from jollyboat.training.split import Part, thin

MOST_FEATURES, MOST_ROWS, STEPS, MOST_CATEGORIES = 10, 300, 15, 8


def dependence(model: Model, part: Part, importance: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each of the ten most important features, the mean probability at its common values.

    Friedman (2001), "Greedy function approximation". Each value is given to all sampled rows. It is
    not scikit-learn's function, which takes no missing values and none but its own classifiers.
    """
    matrix = model.schema.matrix(thin(part, MOST_ROWS).features)
    features = {feature.name: place for place, feature in enumerate(model.schema.features)}
    names = [name for name, drop in importance.items() if drop > 0 and name in features]
    names.sort(key=lambda name: -importance[name])
    return [_curve(model, matrix, features[name]) for name in names[:MOST_FEATURES]]


def _curve(model: Model, matrix: np.ndarray, place: int) -> dict[str, Any]:
    feature, column = model.schema.features[place], matrix[:, place]
    values = column[~np.isnan(column)]
    if feature.kind == "number":
        grid = np.unique(np.quantile(values, np.linspace(0.02, 0.98, STEPS))) if len(values) else []
    else:
        codes, counts = np.unique(values, return_counts=True)
        grid = codes[np.argsort(-counts, kind="stable")][:MOST_CATEGORIES]
    changed = np.tile(matrix, (len(grid), 1))
    changed[:, place] = np.repeat(grid, len(matrix))
    means = model.predict_matrix(changed).reshape(len(grid), -1).mean(axis=1) if len(grid) else []
    texts = [feature.categories[int(code)] for code in grid] if feature.kind == "category" else grid
    points = [
        {"value": value if isinstance(value, str) else float(value), "probability": float(mean)}
        for value, mean in zip(texts, means, strict=True)
    ]
    return {"feature": feature.name, "kind": feature.kind, "points": points}
