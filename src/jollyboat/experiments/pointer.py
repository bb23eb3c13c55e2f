"""The experiment that runs, as data/models/experiment.json tells it: read and checked here for all who ask."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from jollyboat.bundles.bundle import REASSEMBLE
from jollyboat.store import Store, UserError, read_json

TEXTS = ("owner", "version", "champion", "salt", "since")
NOTHING = object()


def going(store: Store) -> dict[str, Any] | None:
    """What is on trial, for whom and since when, or None; UserError where the file holds no experiment."""
    try:
        told = read_json(store.experiment, default=NOTHING)
    except UserError as refusal:
        raise _refusal(store, f"it is not readable JSON ({refusal.__cause__})") from refusal
    if told is NOTHING:
        return None
    if not isinstance(told, dict):
        raise _refusal(store, f"it holds {told!r:.40}")
    for name in TEXTS:
        if not isinstance(told.get(name), str):
            raise _refusal(store, f"its {name} is a text, not {told.get(name)!r:.40}")
    try:
        datetime.fromisoformat(told["since"]).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _refusal(store, f"its since is a time, not {told['since']!r:.40}") from error
    share = told.get("share")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise _refusal(store, f"its share is a number above 0 and below 1, not {share!r:.40}")
    return told


@contextmanager
def advising(told: Mapping[str, Any]) -> Iterator[None]:
    """What the block refuses of the challenger's bundle names what mends it now: `make deploy` waits for the trial."""
    try:
        yield
    except UserError as refusal:
        start = f"jollyboat experiment start --run {told.get('run', '...')}"
        mend = f"`jollyboat experiment stop`, then `{start}` assembles it again"
        raise UserError(str(refusal).replace(REASSEMBLE, mend)) from refusal


def _refusal(store: Store, trouble: str) -> UserError:
    return UserError(
        f"{store.experiment} is no experiment: {trouble}. Correct it, or `jollyboat experiment stop` ends it."
    )
