"""The prediction log: each answer is a line of a file below `data/live`.

A full or old file moves whole to `data/raw/predictions`. A process holds its file by a lock that
ends with the process, so another process can land a file without a holder (after a `kill -9`).
A line is in the kernel's memory before the client has its answer; only a power failure loses lines.
"""

import fcntl
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic_core import to_json

from jollyboat.store import Store

SOURCE = "predictions"
TAIL = 1 << 16  # bytes in which a file's last whole line ends
RETRY_SECONDS = 30  # between two attempts to land the same file


class PredictionLog:
    """The log of one process. `append` never raises: `lost` counts lines, `trouble` says why."""

    def __init__(self, store: Store, most_bytes: int = 64_000_000, most_seconds: float = 300):
        self._store, self._most_bytes, self._most_seconds = store, most_bytes, most_seconds
        self._path: Path | None = None
        self._descriptor = -1
        self._bytes = self._lines = 0
        self._began = 0.0
        self._retry_at = 0.0  # 0 unless the file could not be landed
        self.written = self.lost = 0
        self.trouble: str | None = None
        folder = next(each for each in (store.live, *store.live.parents) if each.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            self.trouble = f"Permission denied: {folder}"

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest line has waited to be landed."""
        return time.monotonic() - self._began if self._path else 0.0

    def append(self, answer: Mapping[str, Any]) -> None:
        """Write one answer as a line, whole or not at all."""
        line = to_json(answer, inf_nan_mode="null") + b"\n"  # JSON has no NaN
        try:
            self._write(line)
        except OSError as error:
            self.lost += 1
            place = error.filename or self._path or self._store.live
            self.trouble = f"{error.strerror or error}: {place}"
            return
        self._bytes += len(line)
        self._lines += 1
        self.written += 1
        if not self._retry_at:
            self.trouble = None
        self._land_if(self._bytes >= self._most_bytes)

    def tend(self) -> None:
        """Land an old file and close one that was deleted. The server calls this regularly."""
        if self._path and os.fstat(self._descriptor).st_nlink == 0:
            self.lost += self._lines
            self._close()
        self._land_if(self.waiting_seconds > self._most_seconds)

    def land(self) -> None:
        """Move the file to where the next data run reads it; if that fails, keep it and retry."""
        if self._path is None:
            return
        try:
            _move_to_raw(self._store, self._path, self._descriptor)
        except OSError as error:
            self.trouble = f"{error.strerror}: {error.filename}"
            self._retry_at = time.monotonic() + RETRY_SECONDS
        else:
            self._close()

    def _write(self, line: bytes) -> None:
        if self._path is None:
            self._path, self._descriptor = _begin(self._store.live)
            self._bytes, self._lines, self._began = 0, 0, time.monotonic()
        written = os.write(self._descriptor, line)
        if written < len(line):
            os.ftruncate(self._descriptor, self._bytes)
            raise OSError(f"only {written} of {len(line)} bytes were taken")

    def _land_if(self, is_due: bool) -> None:
        if is_due and time.monotonic() >= self._retry_at:
            self.land()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._path = None
        if self._retry_at:
            self._retry_at, self.trouble = 0.0, None


def land_leftovers(store: Store) -> int:
    """Land the live files without a holder, each once; returns how many there were."""
    return sum(_land_leftover(store, path) for path in sorted(store.live.glob("*.jsonl")))


def _begin(folder: Path) -> tuple[Path, int]:
    """A new file that this process holds."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{uuid4().hex[:8]}.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        if _lock(path, descriptor):
            return path, descriptor
        os.close(descriptor)  # another process removed the empty file before it was locked


def _land_leftover(store: Store, path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        is_left = _lock(path, descriptor)
        if is_left:
            _move_to_raw(store, path, descriptor)
        return is_left
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> bool:
    """Lock the file; False if another process holds it or has moved it."""
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False


def _move_to_raw(store: Store, path: Path, descriptor: int) -> None:
    """Rename the file, without a last line that a kill cut off: no client had that answer."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - TAIL)
    whole = start + os.pread(descriptor, TAIL, start).rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(descriptor, whole)
    if not whole:
        path.unlink()
        return
    target = store.raw / SOURCE / f"dt={datetime.now(UTC):%Y-%m-%d}" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
