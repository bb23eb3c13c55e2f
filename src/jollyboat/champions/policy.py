"""What a person decided about a tenant's model: pinned to the shared one, or paused.

`make deploy` changes the champion of a tenant only if neither is in effect.
"""

from datetime import UTC, datetime
from pathlib import Path

from jollyboat.bundles.bundle import SHARED, refuse_unsafe_owner
from jollyboat.champions import champion
from jollyboat.store import Store, UserError, read_json, write_json

PINNED, PAUSED = "pinned", "paused"
POLICY = {"state": str, "at": str, "by": str, "why": str}


def read_policy(store: Store, tenant: str) -> dict | None:
    """The decision in effect about a tenant: `state`, `at`, `by` and `why`; or None."""
    return read_json(_file(store, tenant), **POLICY)


def read_policies(store: Store) -> dict[str, dict]:
    """The decisions in effect by tenant."""
    paths = sorted(store.models.glob("*/policy.json"))
    return {path.parent.name: read_json(path, **POLICY) for path in paths}


def pin(store: Store, tenant: str, *, by: str, why: str) -> champion.Change:
    """Let the shared champion answer the tenant from now on, whatever its own model can do."""
    change = champion.use_shared(store, tenant, by=by, why=why)
    _write(store, tenant, PINNED, by, why)
    return change


def pause(store: Store, tenant: str, *, by: str, why: str) -> champion.Change:
    """Keep the model that answers the tenant now, also when the shared champion changes."""
    now = champion.current(store, tenant)
    if now is None:
        raise UserError(f"No model answers {tenant}: `make deploy` makes one.")
    owner, version = now
    if owner == SHARED:
        change = champion.use_shared(store, tenant, version, by=by, why=why)
    else:
        change = champion.Change(tenant, version, version, changed=False)
    _write(store, tenant, PAUSED, by, why)
    return change


def resume(store: Store, tenant: str, *, by: str, why: str) -> None:
    """End a pin or a pause; from the next `make deploy` on the tenant's own model counts again."""
    if read_policy(store, tenant) is None:
        raise UserError(f"{tenant} is neither pinned nor paused.")
    named = champion.named_champion(store, tenant)
    if named and named[0] == SHARED:
        champion.use_shared(store, tenant, by=by, why=why)
    _file(store, tenant).unlink(missing_ok=True)


def _write(store: Store, tenant: str, state: str, by: str, why: str) -> None:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(_file(store, tenant), {"state": state, "at": at, "by": by, "why": why})


def _file(store: Store, tenant: str) -> Path:
    return store.models / refuse_unsafe_owner(tenant) / "policy.json"
