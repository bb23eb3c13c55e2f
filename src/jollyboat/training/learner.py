"""The steps of a training run on one snapshot, for a question with a yes or no outcome."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import UserError, suggest
from jollyboat.training import own_models, training
from jollyboat.training.split import KEYS


class Learner:
    """Fits and compares candidates; jollyboat.ranking.learner has the same steps for a ranking.

    `settings` is project.toml. `train_rows` and `holdout_rows` are numbers of rows.
    """

    def __init__(self, opened: Snapshot, settings: Mapping):
        self._settings, self._horizon_days = settings, opened.horizon_days
        self._rows = opened.training_rows()
        _refuse_unknown_tenants(settings["tenants"]["private"], set(self._rows["tenant_id"]))
        is_private = self._rows["tenant_id"].isin(settings["tenants"]["private"])
        shared = self._rows[~is_private]
        self._split, self._schema = training.prepare(shared, settings, opened.horizon_days)
        self.train_rows, self.holdout_rows = len(self._split.train), len(self._split.holdout)

    def fit(self, name: str, folder: Path) -> dict[str, Any]:
        """Fit one candidate and save it in `folder`; see training.fit_candidate."""
        return training.fit_candidate(name, self._split, self._schema, self._settings, folder)

    def fit_tenants(self, tenants: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
        """A model of its own for each tenant; see own_models.fit_tenants."""
        rows = self._rows[self._rows["tenant_id"].isin(tenants)].groupby("tenant_id")
        return own_models.fit_tenants(dict(iter(rows)), self._settings, folder, self._horizon_days)

    def compare_tenants(
        self, results: Mapping[str, Mapping], shared: Mapping
    ) -> tuple[dict[str, dict[str, Any]], pd.DataFrame, dict[str, Any]]:
        """Each tenant's result beside the shared model's, the own models' holdout, a summary.

        `shared` is the result of the shared model's chosen candidate.
        """
        rows = self._split.holdout.keys[KEYS[:3]].assign(probability=shared["holdout"])
        all_results = own_models.without_own(self._rows, self._settings) | results
        compared, holdout = own_models.compare(all_results, rows, self._settings)
        return compared, holdout, own_models.summarize(compared, holdout, rows)

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


def _refuse_unknown_tenants(named: Sequence[str], tenants: Collection[str]) -> None:
    """UserError for a private tenant that has no row but nearly the name of one that has."""
    for name in named:
        if name not in tenants and (hint := suggest(name, tenants)):
            raise UserError(
                f"No row is of tenant {name!r}, which private under [tenants] in project.toml "
                f"names.{hint} Correct it, so that nobody learns from the tenant's rows."
            )
