"""The shards of a training run: what each task of the flow fits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from jollyboat.pages.terminal import format_count
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store.limits import CLUSTER, core_count
from jollyboat.training import own_models


@dataclass(frozen=True)
class Shard:
    """Candidates for the shared model, and tenants that get a model of their own."""

    candidates: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    place: str = ""  # such as ", 1 of 2", where several shards have tenants

    @property
    def title(self) -> str:
        """What the shard fits, such as `baseline, xgboost` or `own models of 30 tenants`."""
        return ", ".join([*self.candidates, *([self.own_title] if self.tenants else [])])

    @property
    def own_title(self) -> str:
        """The tenants in words, such as `own models of 30 tenants`."""
        return f"own models of {format_count(len(self.tenants), 'tenant')}{self.place}"


def shards_of(opened: Snapshot, settings: Mapping, is_small: bool) -> list[Shard]:
    """One shard where the snapshot is small, else one a candidate and one a core for tenants.

    On a cluster `[cluster] shards` is the number for tenants.

    The candidates of a ranking share its pairs, which take most of the time, and it has no own
    models: its items are counted by tenant anyway.
    """
    candidates = settings["train"]["candidates"]
    if opened.is_ranking:
        return [Shard(candidates)]
    tenants = list(own_models.plan(opened, settings))  # those with most outcomes come first
    if is_small:
        return [Shard(candidates, tenants)]
    at_once = settings["cluster"]["shards"] if CLUSTER in os.environ else core_count()
    count = min(at_once, len(tenants))
    own = [
        Shard(tenants=tenants[first::count], place=f", {first + 1} of {count}")
        for first in range(count)
    ]
    return [*own, *(Shard([name]) for name in candidates)]
