"""A search over a candidate's hyperparameters: a few trials, each kept as it ends, so that a killed search goes on."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jollyboat.training.estimators import fit, search_ranges
from jollyboat.training.evaluate import log_loss
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Split, thin

MOST_ROWS = 50_000  # of train, evenly taken, that a trial learns from


def search(
    name: str,
    split: Split,
    schema: FeatureSchema,
    own: Mapping,
    budget: Mapping[str, float],
    file: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that lower the log loss on validation most (none where the usual ones do), and the history.

    SEARCH in ml/candidates.py has each setting's lowest and highest value: whole numbers, or numbers on a log scale.
    The budget has `trials`, and `search_seconds`, after which no other trial begins; a history says if that struck. A
    trial's suggestion depends on the seed and the trials before it alone, so a resumed search ends as an unbroken one.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file.parent.mkdir(parents=True, exist_ok=True)
    storage, began = optuna.storages.JournalStorage(JournalFileBackend(str(file))), time.monotonic()
    study = optuna.create_study(study_name="search", storage=storage, load_if_exists=True)
    train = thin(split.train, MOST_ROWS)

    def loss(given: Mapping) -> float:
        model = fit(name, train, split.validation, schema, {**own, **given})
        return log_loss(split.validation.label, model.predict_proba(split.validation.features))

    def ended() -> list:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    while len(ended()) <= budget["trials"] and (
        not ended() or time.monotonic() - began < budget["search_seconds"]
    ):
        study.sampler = optuna.samplers.TPESampler(
            seed=own["seed"] + len(ended()), n_startup_trials=8
        )
        trial = study.ask()
        # the first trial is of the usual settings
        ranges = search_ranges(name) if ended() else {}
        given = {setting: _suggest(trial, setting, *ends) for setting, ends in ranges.items()}
        study.tell(trial, loss(given))
    history = [{"log_loss": each.value, "settings": each.params} for each in ended()]
    best = min(history, key=lambda each: each["log_loss"])["settings"]
    return best, {
        "trials": history,
        "is_cut_off": len(history) <= budget["trials"],
        "rows": len(train),
    }


def _suggest(trial: Any, name: str, low: float, high: float) -> float:
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high)
    return trial.suggest_float(name, low, high, log=True)
