"""Which bundle answers: one pointer per tenant and one for all, replaced atomically, with the history of every step."""

from dataclasses import dataclass
from datetime import UTC, datetime

from rails.bundle import open_bundle, refuse_unsafe_owner
from rails.errors import Refused
from rails.store import PointerMoved, Store, read_json, replace_pointer

POOLED = "pooled"
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


def current(store: Store, tenant_id: str = POOLED) -> tuple[str, str] | None:
    """(owner, version) of the tenant's own champion, else of the pooled one; None where there is neither."""
    for owner in (refuse_unsafe_owner(tenant_id), POOLED):
        if pointer := read_json(store.champion(owner)):
            return owner, pointer["version"]
    return None


def promote(
    store: Store, owner: str, version: str, *, run: str, by: str, why: str, over: object = WHATEVER_IS_THERE
) -> Change:
    """Make a whole bundle the champion of its owner; with `over`, only if that version (None: none) still is it."""
    bundle = open_bundle(store.bundle(refuse_unsafe_owner(owner), version))
    if (bundle.owner, bundle.version) != (owner, version):
        raise Refused(
            f"{bundle.folder} holds version {bundle.version} of {bundle.owner}; run `make deploy` instead of copying."
        )

    def step(pointer: dict | None) -> tuple[str, str]:
        found = pointer and pointer["version"]
        if over is not WHATEVER_IS_THERE and found not in (over, version):
            raise Refused(
                f"The champion of {owner} is now {found or 'none'}, and {version} was judged against {over or 'none'}; "
                "run `make deploy` again."
            )
        return version, run

    return _move(store, owner, step, kind="promotion", by=by, why=why)


def rollback(store: Store, owner: str = POOLED, to: str | None = None, *, by: str, why: str) -> Change:
    """Go back to the champion before the present one, or to the version named, if its bundle is still whole."""

    def step(pointer: dict | None) -> tuple[str, str]:
        history = pointer["history"] if pointer else []
        version = to or _version_before(owner, history)
        runs = [entry["run"] for entry in history if entry["version"] == version]
        if not runs:
            raise Refused(f"{version} was never the champion of {owner}; `champion.json` lists those that were.")
        open_bundle(store.bundle(owner, version))
        return version, runs[-1]

    refuse_unsafe_owner(owner)
    return _move(store, owner, step, kind="rollback", by=by, why=why)


def _move(store: Store, owner: str, step, *, kind: str, by: str, why: str) -> Change:
    """Replace the pointer by what `step` makes of it, again from its new content whenever somebody else was quicker."""
    path = store.champion(owner)
    while True:
        pointer = read_json(path)
        previous = pointer and pointer["version"]
        version, run = step(pointer)
        if version == previous:
            return Change(owner, version, previous, changed=False)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"version": version, "at": at, "by": by, "why": why, "run": run, "previous": previous, "kind": kind}
        history = [*(pointer["history"] if pointer else []), entry]
        try:
            replace_pointer(path, {"version": version, "history": history}, expected=pointer)
        except PointerMoved:
            continue
        return Change(owner, version, previous, changed=True)


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
        raise Refused(f"There is no earlier champion of {owner} to go back to; `make deploy` makes a new one.")
    return line[-2]
