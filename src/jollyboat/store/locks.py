"""Locks between processes, and pointer files that are replaced under one."""

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path

from jollyboat.store.files import read_json, write_json


class PointerMoved(Exception):
    """Somebody else replaced the pointer since it was read."""


def replace_pointer(path: Path, new: object, expected: object) -> None:
    """Replace a pointer file atomically, if it still holds `expected` (None: no file yet); else raise PointerMoved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        if (found := read_json(path)) != expected:
            raise PointerMoved(f"{path} was replaced meanwhile: expected {expected}, found {found}")
        write_json(path, new)


@contextmanager
def locked(path: Path):
    """Hold an exclusive lock on a file for the block; the lock goes with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def is_alive(pid: int | None) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return bool(pid)
