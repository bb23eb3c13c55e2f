"""The steps of a training run on one snapshot, for a question with a yes or no outcome."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.training import training


class Learner:
    """Fits and compares candidates; jollyboat.ranking.learner has the same steps for a ranking.

    `settings` is project.toml. `train_rows` and `holdout_rows` are numbers of rows.
    """

    def __init__(self, opened: Snapshot, settings: Mapping):
        self._settings, self._horizon_days = settings, opened.horizon_days
        rows = opened.training_rows()
        self._split, self._schema = training.prepare(rows, settings, opened.horizon_days)
        self.train_rows, self.holdout_rows = len(self._split.train), len(self._split.holdout)

    def fit(self, name: str, folder: Path) -> dict[str, Any]:
        """Fit one candidate and save it in `folder`; see training.fit_candidate."""
        return training.fit_candidate(name, self._split, self._schema, self._settings, folder)

    def compare(self, fitted: Mapping[str, Mapping], saved: Path) -> dict[str, Any]:
        """The figures of the run; see training.compare."""
        split, schema = self._split, self._schema
        return training.compare(split, schema, fitted, self._settings, saved, self._horizon_days)

    def predictions(self, fitted: Mapping[str, Mapping]) -> pd.DataFrame:
        """The holdout with each candidate's probabilities."""
        return training.holdout_predictions(self._split, fitted)

    def schema(self, fitted: Mapping[str, Mapping]) -> dict[str, Any]:
        """The features that the candidates read."""
        return self._schema.to_dict()
