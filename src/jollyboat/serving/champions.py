"""The champions in memory: followed as their pointers and the snapshot's lookups change, swapped whole, never half."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jollyboat.bundles.bundle import SHARED, Bundle, open_bundle, refuse_unsafe_owner
from jollyboat.bundles.model import LoadedModel
from jollyboat.experiments.pointer import advising, going
from jollyboat.snapshots import snapshot
from jollyboat.store import Store, read_json
from jollyboat.store.errors import UserError

LOOKUP_DAYS = (
    7  # how long before the newest logs a session may lie and still be answered as of its own day
)
CHALLENGER = "challenger:"  # its key among the models; no owner's name ends so
NO_CHAMPION = "There is no champion yet; run `make deploy`, and it answers without a restart."
log = logging.getLogger("serving")


@dataclass
class Champions:
    """Owner to loaded model. `refused` says of each owner why its newest bundle is not the one that answers.

    While data/models/experiment.json names a challenger, it takes its share of the visitors whom its owner answers.
    """

    store: Store
    only: Path | None = None
    threads: int = 1
    models: dict[str, LoadedModel] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    experiment: dict = field(default_factory=dict)
    _seen: dict[str, tuple] = field(default_factory=dict)

    def of(self, tenant_id: str) -> LoadedModel | None:
        """The model that answers for a tenant: its own, else the shared one; None where there is neither."""
        return self.models.get(tenant_id) or self.models.get(SHARED)

    def pick(self, tenant_id: str, anonymous_id: str | None) -> tuple[LoadedModel, str] | None:
        """Who answers this visitor, the same at every visit: (model, "champion" or "challenger")."""
        if (champion := self.of(tenant_id)) is None:
            return None
        challenger = self.models.get(CHALLENGER)
        if challenger and anonymous_id and champion.bundle.owner == challenger.bundle.owner:
            drawn = hashlib.md5(
                f"{self.experiment['salt']}{anonymous_id}".encode(), usedforsecurity=False
            ).hexdigest()
            if int(drawn[:8], 16) < self.experiment["share"] * 16**8:
                return challenger, "challenger"
        return champion, "champion"

    def serving(self) -> dict[str, str]:
        """The version that answers of each owner, and the challenger's."""
        return {owner.rstrip(":"): model.bundle.version for owner, model in self.models.items()}

    def why_not(self) -> str:
        """Why nobody answers, in a sentence that says what to do."""
        return " ".join(sorted(self.refused.values())) or NO_CHAMPION

    async def refresh(self) -> None:
        """Take over what changed on disk since the last look; a broken bundle leaves the one before it in place."""
        pointers = self._pointers()
        snapshot_state = _changed_at(self.store.latest_snapshot)
        for owner in (set(self.models) | set(self._seen)) - set(pointers):
            self._replace(owner, None)
            self._seen.pop(owner, None)
            self.refused.pop(owner, None)
        # A new champion comes before new lookups of those that stay, which may be many.
        stays = {
            owner: self._seen.get(owner, (None,))[0] == pointer_state
            for owner, pointer_state in pointers.items()
        }
        for owner, pointer_state in sorted(pointers.items(), key=lambda pointer: stays[pointer[0]]):
            # A refused bundle is read again when something of its owner's moves, too: it may be mended in place.
            moved_at = self._moved_at(owner) if owner in self.refused else None
            if self._seen.get(owner) == (pointer_state, snapshot_state, moved_at):
                continue
            moved_at = self._moved_at(owner)
            try:
                self._replace(owner, await asyncio.to_thread(self._load, owner))
                self.refused.pop(owner, None)
                moved_at = None
            except (
                Exception
            ) as error:  # a user's SQL and candidate raise what they like; the old champion goes on
                self.refused[owner] = f"{owner.rstrip(':')}: {error}"
                log.warning(
                    "A champion was refused. %s",
                    self.refused[owner],
                    exc_info=not isinstance(error, UserError),
                )
            self._seen[owner] = (pointer_state, snapshot_state, moved_at)

    def _load(self, owner: str) -> LoadedModel | None:
        if self.only:
            return self._bring_to_life(open_bundle(self.only))
        if owner == CHALLENGER:
            return self._load_challenger()
        path = self.store.champion(owner)
        try:
            pointer = read_json(path)
            version, standing = pointer["version"], pointer["history"][-1]
        except (UserError, LookupError, TypeError) as error:
            found = error.__cause__ or error
            raise UserError(
                f"{path} names no champion ({found!r}); delete it, then `make deploy`."
            ) from error
        model = self._open(owner, version)
        model.standing = standing
        return model

    def _load_challenger(self) -> LoadedModel | None:
        """The experiment's other model; a change of share or salt alone keeps the one that is loaded."""
        if (told := going(self.store)) is None:
            return None
        names = (told["owner"], told["version"], _changed_at(self.store.latest_snapshot))
        loaded = self.models.get(CHALLENGER)
        if not loaded or self.experiment.get("names") != names:
            with advising(told):
                loaded = self._open(*names[:2])
        self.experiment = {"names": names, "share": told["share"], "salt": told["salt"]}
        return loaded

    def _open(self, owner: str, version: str) -> LoadedModel:
        return self._bring_to_life(
            open_bundle(self.store.bundle(refuse_unsafe_owner(owner), version))
        )

    def _bring_to_life(self, bundle: Bundle) -> LoadedModel:
        files = _lookup_files(bundle, self.store)
        return LoadedModel(bundle, files, self.threads, LOOKUP_DAYS, self.store.read_salt())

    def _pointers(self) -> dict[str, object]:
        """When each owner's pointer was last replaced; a stat for each, nothing is read."""
        if self.only:
            return {SHARED: _changed_at(self.only / "manifest.json")}
        try:
            owners = [
                entry.name
                for entry in os.scandir(self.store.models)
                if not entry.name.startswith(".")
            ]
        except FileNotFoundError:
            owners = []
        except OSError:  # no descriptor is left to look with, say: those who were there stay
            owners = [owner for owner in self._seen if owner != CHALLENGER]
        states = {owner: _changed_at(self.store.champion(owner)) for owner in owners}
        states[CHALLENGER] = _changed_at(self.store.experiment)
        return {owner: state for owner, state in states.items() if state}

    def _moved_at(self, owner: str) -> int | None:
        """When a file of the owner's bundles, or of those the challenger is among, was last written or replaced."""
        with suppress(UserError, OSError):
            told = going(self.store) if owner == CHALLENGER else None
            home = self.store.models / refuse_unsafe_owner(told["owner"] if told else owner)
            return max(path.lstat().st_ctime_ns for path in [home, *home.rglob("*")])
        return None

    def _replace(self, owner: str, model: LoadedModel | None) -> None:
        before = self.models.pop(owner, None)
        if model:
            self.models[owner] = model
        if before and before is not model:
            before.close()


def _lookup_files(bundle: Bundle, store: Store) -> Mapping[str, list[Path]]:
    """The newest snapshot's files of each lookup table that the bundle joins; none where nothing is published yet."""
    if not store.latest_snapshot.exists():
        return {}
    newest = snapshot.open_latest(store)
    return {table: newest.files(table) for table in bundle.lookups}


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino
