"""A search over a candidate's hyperparameters that continues where a killed one stopped."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jollyboat.training.estimators import fit, search_ranges
from jollyboat.training.evaluate import log_loss
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Split, thin

MOST_ROWS = 50_000  # of train that a trial fits on, evenly spaced
RANDOM_TRIALS = 8  # before the sampler models the results


def search(
    name: str,
    split: Split,
    schema: FeatureSchema,
    own: Mapping,
    budget: Mapping[str, float],
    file: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings with the lowest log loss on validation (none if the defaults), and the history.

    The budget has `trials`, and `search_seconds`, after which no trial begins; the history says if
    that time ran out. A trial's suggestion depends only on the seed and the trials before it, so a
    resumed search ends as an uninterrupted one.
    """
    study, began = _open_study(file), time.monotonic()
    train = thin(split.train, MOST_ROWS)
    finished = _finished_trials(study)
    while len(finished) <= budget["trials"]:
        if finished and time.monotonic() - began >= budget["search_seconds"]:
            break
        # the first trial has the default settings
        suggestion, settings = _suggest(study, name if finished else "", own["seed"], len(finished))
        model = fit(name, train, split.validation, schema, {**own, **settings})
        probability = model.predict_proba(split.validation.features)
        study.tell(suggestion, log_loss(split.validation.label, probability))
        finished = _finished_trials(study)
    history = [{"log_loss": each.value, "settings": each.params} for each in finished]
    best = min(history, key=lambda each: each["log_loss"])["settings"]
    is_cut_off = len(history) <= budget["trials"]
    return best, {"trials": history, "is_cut_off": is_cut_off, "rows": len(train)}


def _open_study(file: Path) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    return optuna.create_study(study_name="search", storage=storage, load_if_exists=True)


def _finished_trials(study: Any) -> list:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _suggest(study: Any, candidate: str, seed: int, number: int) -> tuple[Any, dict[str, float]]:
    """The next trial and its settings; whole numbers, or numbers on a log scale."""
    import optuna

    study.sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=RANDOM_TRIALS)
    suggestion, settings = study.ask(), {}
    for name, (low, high) in search_ranges(candidate).items():
        if isinstance(low, int) and isinstance(high, int):
            settings[name] = suggestion.suggest_int(name, low, high)
        else:
            settings[name] = suggestion.suggest_float(name, low, high, log=True)
    return suggestion, settings
