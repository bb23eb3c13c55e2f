"""The pointers to champions: one for all tenants and one a tenant, each with its history.

A tenant's pointer names a version of its own; or SHARED, and the shared champion answers it; or
with `owner` SHARED one version of the shared model, which stays while the tenant is paused.
"""

import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jollyboat.bundles.bundle import SHARED, open_bundle, refuse_unsafe_owner
from jollyboat.pages.terminal import join_lines
from jollyboat.store import Store, UserError, locked, publish, read_json, replace_pointer
from jollyboat.training.run import headline, interval

ANY_CHAMPION = object()
POINTER = {"version": str, "history": [{"version": str, "at": str, "by": str}]}
MANIFEST = {"candidate": str, "run": str, "metrics": dict}


@dataclass(frozen=True)
class Change:
    """The result of a promotion or a rollback; not `changed` if the version was the champion."""

    owner: str
    version: str
    previous: str | None
    changed: bool

    @property
    def sentence(self) -> str:
        if not self.changed:
            return f"{self.version} is already the champion of {self.owner}; nothing changed."
        return (
            f"{self.version} is now the champion of {self.owner}; "
            f"before it was {self.previous or 'none'}."
        )


def current(
    store: Store, tenant_id: str = SHARED, private: Collection[str] = ()
) -> tuple[str, str] | None:
    """(owner, version) of the tenant's champion, its own or the shared one, else None.

    The shared champion does not answer `private` tenants.
    """
    if named := named_champion(store, refuse_unsafe_owner(tenant_id)):
        return named
    pointer = None if tenant_id in private else read_json(store.champion(SHARED), version=str)
    return (SHARED, pointer["version"]) if pointer else None


def named_champion(store: Store, tenant_id: str) -> tuple[str, str] | None:
    """(owner, version) that the tenant's own pointer names; None: the shared champion's case."""
    pointer = read_json(store.champion(tenant_id), version=str)
    if pointer is None or pointer["version"] == SHARED:
        return None
    return pointer.get("owner", tenant_id), pointer["version"]


def own(store: Store) -> dict[str, str]:
    """Tenants that a model of their own answers, with its version.

    A tenant with a broken pointer is not among them: servers answer it with the model before.
    """
    versions = {}
    for path in sorted(store.models.glob(f"[!.]*/{store.champion(SHARED).name}")):
        tenant = path.parent.name
        with suppress(UserError, OSError):
            named = named_champion(store, tenant)
            if tenant != SHARED and named and named[0] != SHARED:
                versions[tenant] = named[1]
    return versions


def promote(
    store: Store,
    owner: str,
    version: str,
    *,
    run: str,
    by: str,
    why: str,
    over: object = ANY_CHAMPION,
    gate: str | None = None,
    forced: str | None = None,
) -> Change:
    """Make a whole bundle the champion of its owner.

    `over` is the version (None: none) that must still be the champion. `gate` names the gate's
    report beside the bundle. `forced` is the reason for passing a shut gate.
    """
    bundle = open_bundle(store.bundle(refuse_unsafe_owner(owner), version))
    if (bundle.owner, bundle.version) != (owner, version):
        raise UserError(
            f"{bundle.folder} holds version {bundle.version} of {bundle.owner}: run `make deploy` "
            "instead of copying a bundle."
        )

    def next_entry(pointer: dict | None) -> dict:
        champion = pointer and pointer["version"]
        if over is not ANY_CHAMPION and champion not in (over, version):
            raise UserError(
                f"The champion of {owner} is now {champion or 'none'}, but {version} was judged "
                f"against {over or 'none'}: run `make deploy` again."
            )
        return {"version": version, "run": run, "gate": gate, "forced": forced}

    return _replace(store, owner, next_entry, kind="promotion", by=by, why=why)


def use_shared(
    store: Store, tenant: str, version: str | None = None, *, by: str, why: str
) -> Change:
    """Let the shared champion answer a tenant, or for a pause one `version` of the shared model."""

    def next_entry(_: dict | None) -> dict:
        return {"version": version, "owner": SHARED} if version else {"version": SHARED}

    refuse_unsafe_owner(tenant)
    if tenant == SHARED:
        raise UserError("shared is the model of all tenants; name one tenant.")
    return _replace(store, tenant, next_entry, kind="promotion", by=by, why=why)


def rollback(
    store: Store, owner: str = SHARED, to: str | None = None, *, by: str, why: str
) -> Change:
    """Go back to the champion before, or to version `to`, if its bundle is still whole."""

    def next_entry(pointer: dict | None) -> dict:
        history = pointer["history"] if pointer else []
        version = to or _version_before(owner, history)
        entries = [entry for entry in history if entry["version"] == version]
        if version == SHARED != owner:
            entries = entries or [{"version": SHARED}]
        if not entries:
            raise UserError(
                f"{version} was never the champion of {owner}; `jollyboat models` lists the "
                "versions that were."
            )
        entry = {name: entries[-1].get(name) for name in ("version", "run", "gate", "forced")}
        if version == SHARED:
            return entry
        if model_owner := entries[-1].get("owner"):
            entry["owner"] = model_owner
        folder = store.bundle(entry.get("owner", owner), version)
        if not folder.exists():
            raise UserError(
                f"The bundle of {version} is no longer kept; `jollyboat models` lists the "
                "versions that are."
            )
        open_bundle(folder)
        return entry

    refuse_unsafe_owner(owner)
    return _replace(store, owner, next_entry, kind="rollback", by=by, why=why)


def why_rolled_back(store: Store, owner: str, version: str) -> str:
    """When, by whom and why the version was rolled back; "" unless it was, and stayed so."""
    pointer = read_json(store.champion(owner), **POINTER) or {"history": []}
    return _why_rolled_back(pointer["history"], version)


def _why_rolled_back(history: list[dict], version: str) -> str:
    for entry in reversed(history):
        if entry["version"] == version:
            return ""
        if entry.get("kind") == "rollback" and entry.get("previous") == version:
            return f"rolled back on {entry['at'][:10]} by {entry['by']}: {entry['why']}"
    return ""


def prune(store: Store, owner: str, keep: int) -> list[str]:
    """Delete all but the newest `keep` versions with their gate's reports; returns the deleted.

    Keeps the versions that a pointer of this owner, a paused tenant or the experiment names, and
    the champion before the present one.
    """
    with locked(_lock(store, owner)):
        paths = [store.experiment, *store.champion(owner).parent.glob("*.json")]
        if owner == SHARED:
            paths += store.models.glob("*/champion.json")
        pointers = [pointer for path in paths if isinstance(pointer := read_json(path), dict)]
        named = {str(pointer["version"]) for pointer in pointers if "version" in pointer}
        champion = read_json(store.champion(owner), **POINTER) or {"history": []}
        with suppress(UserError):
            named.add(_version_before(owner, champion["history"]))
        old = [version for version in _versions(store, owner)[keep:] if version not in named]
        _remove(store, owner, old)
    return old


def remove(store: Store, owner: str, versions: list[str]) -> None:
    """Delete these versions with their gate's reports; the caller knows that none serves."""
    with locked(_lock(store, owner)):
        _remove(store, owner, versions)


def _remove(store: Store, owner: str, versions: list[str]) -> None:
    for version in versions:
        bundle = store.bundle(owner, version)
        for page in bundle.parent.glob(f"{version}-gate.*"):
            page.unlink()
        hidden = bundle.with_name(f".pruned-{version}")  # so that no reader sees half a bundle
        bundle.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def format_versions(store: Store) -> str:
    """A line for each kept version, the newest first: its figures and its state."""
    owners = sorted(path.name for path in store.models.glob("*") if path.is_dir())
    rows = [row for owner in owners for row in _rows_of_owner(store, owner)]
    if not rows:
        return "There is no model yet: `make deploy` makes one."
    heading = ("owner", "version", "candidate", f"{rows[0][3]} (95 %)", "run", "state")
    rows = [(*row[:3], *row[4:]) for row in rows]
    return join_lines(
        f"{owner:<12}{version:<14}{candidate:<12}{figure:<26}{run:<14}{state}"
        for owner, version, candidate, figure, run, state in [heading, *rows]
    )


def _rows_of_owner(store: Store, owner: str) -> list[tuple[str, ...]]:
    pointer = read_json(store.champion(owner), **POINTER)
    pointer = pointer or {"version": None, "history": []}
    entries = {entry["version"]: entry for entry in pointer["history"]}
    rows = []
    for version in _versions(store, owner):
        manifest = read_json(store.bundle(owner, version) / "manifest.json", **MANIFEST)
        measure, figure = headline(manifest["metrics"])
        if version in entries:
            state = _format_entry(entries[version], version == pointer["version"])
            if reason := _why_rolled_back(pointer["history"], version):
                state += f"; {reason}"
        else:
            gate = read_json(store.gate(owner, version), decision={"passed": bool})
            is_refused = gate is not None and not gate["decision"]["passed"]
            state = f"never champion{', refused by the gate' if is_refused else ''}"
        about = (manifest["candidate"], measure, interval(figure), manifest["run"])
        rows.append((owner, version, *about, state))
    return rows


def _format_entry(entry: dict, is_champion: bool) -> str:
    period = "CHAMPION since" if is_champion else "was champion from"
    forced = f"; FORCED: {entry['forced']}" if entry.get("forced") else ""
    return f"{period} {entry['at'][:16]} by {entry['by']}{forced}"


def _versions(store: Store, owner: str) -> list[str]:
    """The kept versions of an owner, the newest first."""
    manifests = store.champion(owner).parent.glob("[!.]*/manifest.json")
    newest_first = sorted(manifests, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [path.parent.name for path in newest_first]


def _replace(
    store: Store,
    owner: str,
    next_entry: Callable[[dict | None], dict],
    *,
    kind: str,
    by: str,
    why: str,
) -> Change:
    """Add an entry to the pointer under the lock that pruning takes too."""
    path = store.champion(owner)
    with locked(_lock(store, owner)):
        pointer = read_json(path, **POINTER)
        previous = pointer and pointer["version"]
        entry = next_entry(pointer)
        names = {name: entry[name] for name in ("version", "owner") if name in entry}
        if names == {name: pointer[name] for name in names if pointer and name in pointer}:
            return Change(owner, previous, previous, changed=False)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        entry |= {"at": at, "by": by, "why": why, "previous": previous, "kind": kind}
        history = [*(pointer["history"] if pointer else []), entry]
        replace_pointer(path, names | {"history": history}, expected=pointer)
        if owner == SHARED:  # those of tenants, which may be hundreds, go when the command ends
            publish()
    return Change(owner, entry["version"], previous, changed=True)


def _lock(store: Store, owner: str) -> Path:
    return store.champion(refuse_unsafe_owner(owner)).with_name(".moving.lock")


def _version_before(owner: str, history: list[dict]) -> str:
    """The champion before the present one; after a rollback, the one before that."""
    past: list[str] = []
    for entry in history:
        version = entry["version"]
        if entry.get("kind") == "rollback" and version in past:
            while past.pop() != version:
                pass
        past.append(version)
    if len(past) == 1 and owner != SHARED and past[0] != SHARED:
        return SHARED  # what answered the tenant before its first own champion
    if len(past) < 2:
        raise UserError(
            f"There is no earlier champion of {owner} to go back to. `jollyboat models` lists all "
            "versions; `make train deploy` on newer data makes another."
        )
    return past[-2]
