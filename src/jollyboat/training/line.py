"""A logistic regression written out as plain numbers: what each feature adds to the log-odds."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """By feature, in the schema's order; a number adds `slope` times what its arcsinh is above `centre`."""

    slope: list[float]
    centre: list[float]
    unknown: list[float]  # where it is not known, or a category that training did not know
    by_category: list[list[float]]  # by code; none for numbers
    intercept: float

    def add_up(self, matrix: np.ndarray) -> np.ndarray:
        """What each feature adds, for a matrix as a schema makes it; without the intercept."""
        added = np.arcsinh(matrix)  # in place from here on: of a million rows there is a gigabyte of it
        added -= self.centre
        added *= self.slope
        np.copyto(added, self.unknown, where=np.isnan(matrix))
        for place, weights in enumerate(self.by_category):
            if weights:
                known = ~np.isnan(matrix[:, place])
                added[known, place] = np.array(weights)[matrix[known, place].astype(int)]
        return added

    def log_odds(self, matrix: np.ndarray) -> np.ndarray:
        """Each row's log-odds."""
        return self.intercept + self.add_up(matrix).sum(axis=1)


def write_out(pipeline: Any, is_number: list[bool]) -> Line:
    """The pipeline of jollyboat.training.candidates.logistic as a line."""
    columns, weights = pipeline[0].named_transformers_, pipeline[-1].coef_[0].tolist()
    size, count = len(is_number), sum(is_number)
    slope, centre, unknown, by_category = np.zeros(size), np.zeros(size), np.zeros(size), [[] for _ in is_number]
    if count:
        imputer, _, scaler = (step for _, step in columns["numbers"].steps)
        slope[is_number] = np.array(weights[:count]) / scaler.scale_
        centre[is_number] = scaler.mean_
        median = np.arcsinh(np.nan_to_num(imputer.statistics_))
        unknown[is_number] = slope[is_number] * (median - scaler.mean_) + weights[count : 2 * count]
    rest, categories = weights[2 * count :], columns["categories"].categories_ if count < size else []
    for place, codes in zip(np.flatnonzero(~np.array(is_number)), categories, strict=True):
        (unknown[place], *by_category[place]), rest = rest[: len(codes)], rest[len(codes) :]
    return Line(slope.tolist(), centre.tolist(), unknown.tolist(), by_category, float(pipeline[-1].intercept_[0]))
