"""The champions in memory: reloaded when their pointers or the snapshot's lookups change.

The shared champion and a challenger are loaded at once. A tenant's own champion is loaded when the
tenant sends its first request; of many the least recently used are dropped.
"""

import asyncio
import getpass
import hashlib
import logging
import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jollyboat.bundles.bundle import SHARED, open_bundle, refuse_unsafe_owner
from jollyboat.bundles.model import LoadedModel
from jollyboat.bundles.queries import FeatureQueries
from jollyboat.bundles.ranking_model import RankingModel
from jollyboat.champions.champion import named_champion
from jollyboat.experiments.pointer import running_experiment, suggest_restart
from jollyboat.snapshots import snapshot
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import Store, UserError, read_json

# Lookups are kept in memory for sessions up to so many days before the end of the data.
LOOKUP_DAYS = 7
MOST_OWN = 1_000  # tenants' own models in memory; one takes about 0.5 MB
RANKING_DAYS = 1  # of a ranking, whose lookups are lists of items: the last two states
CHALLENGER = "challenger:"  # its key among the models; no owner's name ends with a colon
PRIVATE = (
    "{} is private, so the shared model does not answer it, and it has no model of its own yet. "
    "`make deploy` says why."
)
NO_CHAMPION = "There is no champion yet. Run `make deploy`: the server follows without a restart."
log = logging.getLogger("serving")
Version = tuple[str, str]  # the owner of a bundle, and its version


@dataclass
class Champions:
    """The shared model and the challenger in `models`, and the tenants' own ones.

    `refused` says why an owner's newest bundle is not in use. The challenger of
    data/models/experiment.json serves its share of its owner's visitors. The shared model does not
    answer `private` tenants. With `only`, the bundle in that folder is the one model.
    """

    store: Store
    only: Path | None = None
    private: frozenset[str] = frozenset()
    models: dict[str, LoadedModel] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    experiment: dict = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()  # items that no answer of a ranking has
    _seen: dict[str, tuple] = field(default_factory=dict)
    _withdrawn_at: tuple | None = None
    _named: dict[str, Version] = field(default_factory=dict)  # what tenants' own pointers name
    _own: OrderedDict[Version, LoadedModel] = field(default_factory=OrderedDict)
    _queries: FeatureQueries = field(default_factory=FeatureQueries)
    _newest: Snapshot | None = None
    _lookups_of: tuple | None = None  # the state of the snapshot that the queries have
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def of(self, tenant_id: str) -> LoadedModel | None:
        """The tenant's own model if it is loaded, else the shared one, else None."""
        named = self._named.get(tenant_id)
        if named in self._own:
            self._own.move_to_end(named)
            return self._own[named]
        return None if tenant_id in self.private else self.models.get(SHARED)

    def needs(self, tenant_id: str) -> bool:
        """Whether the tenant has an own champion that `load` has to load before it answers."""
        named = self._named.get(tenant_id)
        return bool(named) and named not in self._own and tenant_id not in self.refused

    async def load(self, tenant_id: str) -> None:
        """Load the tenant's own champion; where its bundle is broken, the shared model answers."""
        async with self._loading:
            if self.needs(tenant_id):
                await self._reload(tenant_id)

    def pick(self, tenant_id: str, anonymous_id: str | None) -> tuple[LoadedModel, str] | None:
        """The model for a visitor, the same at every visit, and "champion" or "challenger"."""
        champion, challenger = self.of(tenant_id), self.models.get(CHALLENGER)
        if champion is None:
            return None
        # A tenant with a pointer has a model of its own, or is paused: it keeps its model.
        if challenger and anonymous_id and tenant_id not in self._named:
            key = f"{self.experiment['salt']}{anonymous_id}".encode()
            digest = hashlib.md5(key, usedforsecurity=False).hexdigest()
            if int(digest[:8], 16) < self.experiment["share"] * 16**8:
                return challenger, "challenger"
        return champion, "champion"

    async def load_all(self) -> None:
        """Load the own champions of all tenants, as the review of their sessions needs them."""
        for tenant_id in list(self._named):
            if self.needs(tenant_id):
                await self.load(tenant_id)

    def versions(self) -> dict[str, str]:
        """The version in use of each owner, and the challenger's."""
        loaded = {owner.rstrip(":"): model.bundle.version for owner, model in self.models.items()}
        own = {tenant: version for tenant, (owner, version) in self._named.items()}
        return loaded | {name: own[name] for name in own if name not in self.refused}

    def why_not(self, tenant_id: str = "") -> str:
        """Why there is no answer, and what to type."""
        if tenant_id in self.private and tenant_id not in self.refused:
            return PRIVATE.format(tenant_id)
        return " ".join(sorted(self.refused.values())) or NO_CHAMPION

    async def refresh(self) -> None:
        """Load what changed on disk; where a bundle is broken, the model before it stays."""
        self._read_withdrawn()
        pointers = await asyncio.to_thread(self._pointers)  # hundreds of files: it takes 10 ms
        snapshot_state = _changed_at(self.store.latest_snapshot)
        for owner in (set(self.models) | set(self._seen)) - set(pointers):
            self._replace(owner, None)
            self._named.pop(owner, None)
            self._seen.pop(owner, None)
            self.refused.pop(owner, None)
        if self._lookups_of != snapshot_state:
            self._lookups_of, self._queries, self._newest = snapshot_state, FeatureQueries(), None
            self._own.clear()  # loaded again, with the new lookups, at the tenant's next request

        def has_same_pointer(owner: str) -> bool:
            return self._seen.get(owner, (None,))[0] == pointers[owner]

        # New champions come first: loading new lookups for all others may take long.
        for owner in sorted(pointers, key=has_same_pointer):
            is_tenant = owner not in (SHARED, CHALLENGER)
            # A refused bundle is loaded again when one of its owner's files was corrected.
            files_state = self._newest_change(owner) if owner in self.refused else None
            states = pointers[owner], None if is_tenant else snapshot_state, files_state
            if self._seen.get(owner) == states:
                continue
            if is_tenant:
                self._read_pointer(owner)
            else:
                async with self._loading:
                    files_state = await self._reload(owner)
            self._seen[owner] = (*states[:2], files_state)

    def _read_pointer(self, tenant: str) -> None:
        """Note what the tenant's pointer names; where it is broken, what it named before stays."""
        self.refused.pop(tenant, None)
        try:
            named = named_champion(self.store, tenant)
        except UserError as error:
            self._refuse(tenant, error)
            return
        self._named.pop(tenant, None)
        if named:
            self._named[tenant] = named

    async def _reload(self, owner: str) -> int | None:
        """Load an owner's model; where that fails, when its files last changed."""
        files_state = self._newest_change(owner)
        try:
            self._replace(owner, await asyncio.to_thread(self._load, owner))
        except Exception as error:  # a user's SQL or candidate may raise anything
            self._refuse(owner, error)
            return files_state
        self.refused.pop(owner, None)
        return None

    def _refuse(self, owner: str, error: Exception) -> None:
        reason = _explain_permission(error) if isinstance(error, PermissionError) else error
        self.refused[owner] = f"{owner.rstrip(':')}: {reason}"
        has_traceback = not isinstance(error, UserError | PermissionError)
        log.warning("A champion was refused. %s", self.refused[owner], exc_info=has_traceback)

    def _load(self, owner: str) -> LoadedModel | None:
        if self.only:
            return self._load_bundle(self.only)
        if owner == CHALLENGER:
            return self._load_challenger()
        path = self.store.champion(owner)
        try:
            pointer = read_json(path)
            version, standing = pointer["version"], pointer["history"][-1]
        except (UserError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} names no champion ({error.__cause__ or error!r}); "
                "delete it, then `make deploy`."
            ) from error
        model = self._load_version(*self._named.get(owner, (owner, version)))
        model.standing = standing
        return model

    def _load_challenger(self) -> LoadedModel | None:
        """The challenger's model, loaded again only where version or lookups changed."""
        experiment = running_experiment(self.store)
        if experiment is None:
            return None
        owner, version = experiment["owner"], experiment["version"]
        names = (owner, version, _changed_at(self.store.latest_snapshot))
        model = self.models.get(CHALLENGER)
        if not model or self.experiment.get("names") != names:
            with suggest_restart(experiment):
                model = self._load_version(owner, version)
        share, salt = experiment["share"], experiment["salt"]
        self.experiment = {"names": names, "share": share, "salt": salt}
        return model

    def _load_version(self, owner: str, version: str) -> LoadedModel:
        return self._load_bundle(self.store.bundle(refuse_unsafe_owner(owner), version))

    def _load_bundle(self, folder: Path) -> LoadedModel:
        bundle, files, until = open_bundle(folder), {}, None
        if self._newest is None and self.store.latest_snapshot.exists():
            self._newest = snapshot.open_latest(self.store)
        if newest := self._newest:
            files, until = {table: newest.files(table) for table in bundle.lookups}, newest.ends_at
        salt = self.store.read_salt()
        if bundle.is_ranking:
            return RankingModel(bundle, files, days=RANKING_DAYS, salt=salt, until=until)
        limits = {"days": LOOKUP_DAYS, "salt": salt, "until": until}
        return LoadedModel(bundle, files, **limits, queries=self._queries)

    def _read_withdrawn(self) -> None:
        """Read the file of withdrawn items if it has changed; an unreadable one keeps the last."""
        path = self.store.withdrawn
        changed_at = _changed_at(path)
        if changed_at == self._withdrawn_at:
            return
        try:
            self.withdrawn = read_withdrawn(path)
            self._withdrawn_at = changed_at
        except (OSError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read (%s): the items before stay withdrawn.", path, error)

    def _pointers(self) -> dict[str, object]:
        """When each owner's pointer was last replaced; no file is read."""
        if self.only:
            return {SHARED: _changed_at(self.only / "manifest.json")}
        try:
            names = [entry.name for entry in os.scandir(self.store.models)]
            owners = [name for name in names if not name.startswith(".")]
        except FileNotFoundError:
            owners = []
        except OSError as error:  # as when no file descriptor is left: the owners before stay
            owners = [owner for owner in self._seen if owner != CHALLENGER]
            if isinstance(error, PermissionError):
                self.refused[SHARED] = _explain_permission(error)
        states = {owner: _changed_at(self.store.champion(owner)) for owner in owners}
        states[CHALLENGER] = _changed_at(self.store.experiment)
        return {owner: state for owner, state in states.items() if state}

    def _newest_change(self, owner: str) -> int | None:
        """When the salt or a file of the owner's bundles last changed.

        The challenger's are its owner's.
        """
        with suppress(UserError, OSError):
            experiment = running_experiment(self.store) if owner == CHALLENGER else None
            owner = experiment["owner"] if experiment else owner
            folder = self.store.models / refuse_unsafe_owner(owner)
            salt = [self.store.salt] if self.store.salt.exists() else []
            return max(path.lstat().st_ctime_ns for path in [folder, *folder.rglob("*"), *salt])
        return None

    def _replace(self, owner: str, model: LoadedModel | None) -> None:
        if model and owner in self._named:
            self._own[self._named[owner]] = model
            while len(self._own) > MOST_OWN:
                self._own.popitem(last=False)
            return
        before = self.models.pop(owner, None)
        if model:
            self.models[owner] = model
        if before and before is not model:
            before.close()


def read_withdrawn(path: Path) -> frozenset[str]:
    """The items in a file, one id a line; none where there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return frozenset(filter(None, map(str.strip, text.splitlines())))


def _explain_permission(error: PermissionError) -> str:
    return (
        f"{error.filename} cannot be read by the user {getpass.getuser()} ({error.strerror}). "
        "Start the server as the user who runs the pipeline."
    )


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino
