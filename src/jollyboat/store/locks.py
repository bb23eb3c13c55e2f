"""Locks between processes, and pointer files that are replaced under a lock."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jollyboat.store.files import read_json, write_json


class PointerMoved(Exception):
    """Another process replaced the pointer since it was read."""


def replace_pointer(path: Path, new: object, expected: object) -> None:
    """Replace a pointer file if it still contains `expected`, else raise PointerMoved.

    `expected` is None where there is no file yet.
    """
    with locked(path.with_name(f".{path.name}.lock")):
        current = read_json(path)
        if current != expected:
            raise PointerMoved(
                f"{path} was replaced meanwhile: expected {expected}, found {current}"
            )
        write_json(path, new)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file for the block. The lock ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_alive(pid: int | None) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return bool(pid)
