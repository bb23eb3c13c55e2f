"""Which bundle answers: one pointer per tenant and one for all, replaced atomically, with the history of every step."""

import getpass
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from jollyboat.bundles.bundle import SHARED, open_bundle, refuse_unsafe_owner
from jollyboat.store import Store, locked, read_json, replace_pointer
from jollyboat.store.errors import UserError
from jollyboat.training.run import interval

WHATEVER_IS_THERE = object()


@dataclass(frozen=True)
class Change:
    """What became of a promotion or a rollback; `changed` is false where the champion was already this one."""

    owner: str
    version: str
    previous: str | None
    changed: bool

    @property
    def sentence(self) -> str:
        if not self.changed:
            return f"{self.version} is already the champion of {self.owner}; nothing was changed."
        return f"{self.version} is now the champion of {self.owner}; before it was {self.previous or 'none'}."


def current(store: Store, tenant_id: str = SHARED) -> tuple[str, str] | None:
    """(owner, version) of the tenant's own champion, else of the shared one; None where there is neither."""
    for owner in (refuse_unsafe_owner(tenant_id), SHARED):
        if pointer := read_json(store.champion(owner)):
            return owner, pointer["version"]
    return None


def own(store: Store) -> dict[str, str]:
    """Tenants that have a champion of their own, with its version."""
    paths = sorted(store.models.glob(f"[!.]*/{store.champion(SHARED).name}"))
    return {
        path.parent.name: read_json(path)["version"] for path in paths if path.parent.name != SHARED
    }


def person() -> str:
    """Who is at work, for the history; `owner` where that is root, as in containers."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "root"
    return "owner" if user == "root" else user


def promote(
    store: Store,
    owner: str,
    version: str,
    *,
    run: str,
    by: str,
    why: str,
    over: object = WHATEVER_IS_THERE,
    gate: str | None = None,
    forced: str | None = None,
) -> Change:
    """Make a whole bundle the champion of its owner; with `over`, only if that version (None: none) still is it.

    `gate` names the gate's report beside the bundle; `forced` is the reason for passing a gate that is shut.
    """
    bundle = open_bundle(store.bundle(refuse_unsafe_owner(owner), version))
    if (bundle.owner, bundle.version) != (owner, version):
        raise UserError(
            f"{bundle.folder} holds version {bundle.version} of {bundle.owner}; run `make deploy` instead of copying."
        )

    def step(pointer: dict | None) -> dict:
        found = pointer and pointer["version"]
        if over is not WHATEVER_IS_THERE and found not in (over, version):
            raise UserError(
                f"The champion of {owner} is now {found or 'none'}, and {version} was judged against {over or 'none'}; "
                "run `make deploy` again."
            )
        return {"version": version, "run": run, "gate": gate, "forced": forced}

    return _move(store, owner, step, kind="promotion", by=by, why=why)


def rollback(
    store: Store, owner: str = SHARED, to: str | None = None, *, by: str, why: str
) -> Change:
    """Go back to the champion before the present one, or to the version named, if its bundle is still whole."""

    def step(pointer: dict | None) -> dict:
        history = pointer["history"] if pointer else []
        version = to or _version_before(owner, history)
        entries = [entry for entry in history if entry["version"] == version]
        if not entries:
            raise UserError(
                f"{version} was never the champion of {owner}; `jollyboat models` lists those that were."
            )
        if not store.bundle(owner, version).exists():
            raise UserError(
                f"The bundle of {version} is no longer kept; `jollyboat models` lists those that are."
            )
        open_bundle(store.bundle(owner, version))
        return {name: entries[-1].get(name) for name in ("version", "run", "gate", "forced")}

    refuse_unsafe_owner(owner)
    return _move(store, owner, step, kind="rollback", by=by, why=why)


def prune(store: Store, owner: str, keep: int) -> list[str]:
    """Delete all but the newest `keep` versions with their gate's reports; returns what went.

    What a pointer of this owner or the experiment names stays, and so does the champion before the present one.
    """
    with locked(_lock(store, owner)):
        pointers = [
            read_json(path)
            for path in [store.experiment, *store.champion(owner).parent.glob("*.json")]
        ]
        named = {
            pointer["version"]
            for pointer in pointers
            if isinstance(pointer, dict) and "version" in pointer
        }
        with suppress(UserError):
            named.add(
                _version_before(
                    owner, (read_json(store.champion(owner)) or {"history": []})["history"]
                )
            )
        old = [version for version in _versions(store, owner)[keep:] if version not in named]
        _remove(store, owner, old)
    return old


def remove(store: Store, owner: str, versions: list[str]) -> None:
    """Delete these versions with their gate's reports; that none of them serves is for the caller to know."""
    with locked(_lock(store, owner)):
        _remove(store, owner, versions)


def _remove(store: Store, owner: str, versions: list[str]) -> None:
    for version in versions:
        for page in store.bundle(owner, version).parent.glob(f"{version}-gate.*"):
            page.unlink()
        going = store.bundle(owner, version).with_name(
            f".pruned-{version}"
        )  # half a bundle is never seen
        store.bundle(owner, version).rename(going)
        shutil.rmtree(going, ignore_errors=True)


def format_versions(store: Store) -> str:
    """A line for each version that is kept, the newest first: figures, and what became of it."""
    lines = [
        f"{'owner':<12}{'version':<14}{'candidate':<12}{'average precision (95 %)':<26}{'run':<14}state"
    ]
    for owner in sorted(path.name for path in store.models.glob("*") if path.is_dir()):
        pointer = read_json(store.champion(owner)) or {"version": None, "history": []}
        told = {entry["version"]: entry for entry in pointer["history"]}
        for version in _versions(store, owner):
            manifest = read_json(store.bundle(owner, version) / "manifest.json")
            precision = interval(manifest["metrics"]["average_precision"])
            state = _state(
                pointer, told.get(version), read_json(store.gate(owner, version)), version
            )
            lines.append(
                f"{owner:<12}{version:<14}{manifest['candidate']:<12}{precision:<26}{manifest['run']:<14}{state}"
            )
    return "\n".join(lines) if lines[1:] else "There is no model yet: `make deploy` makes one."


def _state(pointer: dict, entry: dict | None, gate: dict | None, version: str) -> str:
    if entry is None:
        return "never champion" + (
            "" if gate is None or gate["decision"]["passed"] else ", refused by the gate"
        )
    what = "CHAMPION since" if version == pointer["version"] else "was champion from"
    state = f"{what} {entry['at'][:16]} by {entry['by']}"
    return f"{state}; FORCED: {entry['forced']}" if entry.get("forced") else state


def _versions(store: Store, owner: str) -> list[str]:
    """The versions of an owner that are kept, the newest first."""
    found = store.champion(owner).parent.glob("[!.]*/manifest.json")
    return [
        path.parent.name
        for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    ]


def _move(store: Store, owner: str, step, *, kind: str, by: str, why: str) -> Change:
    """Replace the pointer by what `step` makes of it; one mover at a time, none while versions are pruned."""
    path = store.champion(owner)
    with locked(_lock(store, owner)):
        pointer = read_json(path)
        previous = pointer and pointer["version"]
        entry = step(pointer)
        if entry["version"] == previous:
            return Change(owner, previous, previous, changed=False)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        entry |= {"at": at, "by": by, "why": why, "previous": previous, "kind": kind}
        history = [*(pointer["history"] if pointer else []), entry]
        replace_pointer(path, {"version": entry["version"], "history": history}, expected=pointer)
    return Change(owner, entry["version"], previous, changed=True)


def _lock(store: Store, owner: str):
    return store.champion(refuse_unsafe_owner(owner)).with_name(".moving.lock")


def _version_before(owner: str, history: list[dict]) -> str:
    """The champion that the present one replaced; steps back are unwound, so that a second one goes further back."""
    line: list[str] = []
    for entry in history:
        version = entry["version"]
        if entry.get("kind") == "rollback" and version in line:
            while line.pop() != version:
                pass
        line.append(version)
    if len(line) < 2:
        raise UserError(
            f"There is no earlier champion of {owner} to go back to; `make deploy` makes a new one."
        )
    return line[-2]
