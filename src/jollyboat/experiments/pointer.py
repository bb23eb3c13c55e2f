"""The running experiment: data/models/experiment.json, read and validated."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from jollyboat.bundles.bundle import REASSEMBLE
from jollyboat.store import Store, UserError, read_json

TEXTS = ("owner", "version", "champion", "salt", "since")
MISSING = object()


def running_experiment(store: Store) -> dict[str, Any] | None:
    """The experiment's champion, challenger, share and start, or None; UserError if invalid."""
    try:
        experiment = read_json(store.experiment, default=MISSING)
    except UserError as error:
        raise _invalid(store, f"it is not readable JSON ({error.__cause__})") from error
    if experiment is MISSING:
        return None
    if not isinstance(experiment, dict):
        raise _invalid(store, f"it holds {experiment!r:.40}")
    for name in TEXTS:
        if not isinstance(experiment.get(name), str):
            raise _invalid(store, f"its {name} must be a text, not {experiment.get(name)!r:.40}")
    since, share = experiment["since"], experiment.get("share")
    try:
        datetime.fromisoformat(since).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _invalid(store, f"its since must be a time, not {since!r:.40}") from error
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise _invalid(store, f"its share must be above 0 and below 1, not {share!r:.40}")
    return experiment


@contextmanager
def suggest_restart(experiment: Mapping[str, Any]) -> Iterator[None]:
    """Let errors about the challenger's bundle suggest a new experiment.

    `make deploy` cannot assemble the bundle again while the experiment runs.
    """
    try:
        yield
    except UserError as error:
        start = f"jollyboat experiment start --run {experiment.get('run', '...')}"
        remedy = f"run `jollyboat experiment stop`, then `{start}` to assemble it again"
        raise UserError(str(error).replace(REASSEMBLE, remedy)) from error


def _invalid(store: Store, trouble: str) -> UserError:
    return UserError(
        f"{store.experiment} is no valid experiment: {trouble}. "
        "Correct it, or end it with `jollyboat experiment stop`."
    )
