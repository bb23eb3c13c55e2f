"""Which snapshots are in use, and the removal of those that are not."""

import json
import shutil
from pathlib import Path

from jollyboat.snapshots.snapshot import all_of, latest_id
from jollyboat.store import Store, read_json, write_json
from jollyboat.warehouse.warehouse import locked


def of_latest_run(store: Store) -> str | None:
    """The id of the latest training run's snapshot, even if its model was refused."""
    if run := read_json(store.latest_run, default={}, run=str).get("run"):
        return read_json(store.runs / run / "settings.json", default={}).get("snapshot")
    return None


def uses(store: Store) -> dict[str, list[str]]:
    """The ids of the snapshots in use, each with its users.

    Users are the latest pointer, the latest training run (it may be deployed yet), and the
    champions with every version in their history.
    """
    users = {latest_id(store): ["latest"]}
    for one in store.of_every_question():
        prefix = f"{one.question}: " if one.question else ""
        if snapshot_id := of_latest_run(one):
            users.setdefault(snapshot_id, []).append(f"{prefix}latest run")
        for pointer in sorted(one.models.glob("*/champion.json")):
            user = f"{prefix}champion of {pointer.parent.name}"
            history = json.dumps(read_json(pointer))
            for manifest in sorted(pointer.parent.glob("*/manifest.json")):
                if f'"{manifest.parent.name}"' not in history:
                    continue
                users_of_one = users.setdefault(read_json(manifest, snapshot=str)["snapshot"], [])
                if user not in users_of_one:
                    users_of_one.append(user)
    return users


def prune(store: Store, keep: int) -> tuple[list[str], int]:
    """Remove all but the `keep` newest snapshots and those in use, with the files of no other.

    Returns the removed ids and the size of the removed files in bytes. After a kill, the same call
    finishes the removal.
    """
    with locked(store):  # no manifest names the files of a snapshot that is being published
        in_use = uses(store)
        removed = [each.id for each in all_of(store)[max(keep, 1) :] if each.id not in in_use]
        return removed, remove(store, removed)


def remove(store: Store, ids: list[str]) -> int:
    """Remove these snapshots and the files of no other; returns the size of the files in bytes.

    If the latest is removed, the newest that is left becomes the latest.
    """
    if latest_id(store) in ids:
        if left := [each.id for each in all_of(store) if each.id not in ids]:
            write_json(store.latest_snapshot, {"snapshot": left[0]})
        else:
            store.latest_snapshot.unlink()
    for each in ids:
        (store.snapshots / each / "manifest.json").unlink(missing_ok=True)
    for folder in list(store.snapshots.iterdir()):
        if folder.is_dir() and not (folder / "manifest.json").exists():
            shutil.rmtree(folder)
    needed: set[Path] = set()
    for each in all_of(store):
        for table in each.manifest["tables"]:
            needed.update(each.files(table))
    unneeded = [path for path in store.tables.glob("*/dt=*/*.parquet") if path not in needed]
    size = sum(path.stat().st_size for path in unneeded)
    for path in unneeded:
        path.unlink()
    return size
