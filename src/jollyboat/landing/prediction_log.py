"""The prediction log: each answer a line of a file below `data/live`, which lands whole below `data/raw/predictions`.

A live file is held by a lock that goes with its process, so that whoever finds one without a holder (after a `kill -9`)
may land it. A write is in the kernel's hands before the client has its answer; only a machine that loses its power
loses lines.
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
TAIL = 1 << 16
AGAIN_SECONDS = 30  # after which a file that could not be landed is tried again


class PredictionLog:
    """The log of one process. Appending never fails: `lost` counts what could not be written, `trouble` says why."""

    def __init__(self, store: Store, most_bytes: int = 64_000_000, most_seconds: float = 300):
        self._store, self._most_bytes, self._most_seconds = store, most_bytes, most_seconds
        self._path: Path | None = None
        self._descriptor = -1
        self._bytes = self._lines = 0
        self._began = 0.0
        self._next_try = 0.0  # 0 but for a file that could not be landed
        self.written = self.lost = 0
        self.trouble: str | None = None

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest line has waited to be landed."""
        return time.monotonic() - self._began if self._path else 0.0

    def append(self, answer: Mapping[str, Any]) -> None:
        """Write one answer as a line, whole or not at all."""
        line = to_json(answer, inf_nan_mode="null") + b"\n"  # JSON knows no NaN
        try:
            if self._path is None:
                self._path, self._descriptor = _begin(self._store.live)
                self._bytes, self._lines, self._began = 0, 0, time.monotonic()
            written = os.write(self._descriptor, line)
            if written < len(line):
                os.ftruncate(self._descriptor, self._bytes)
                raise OSError(f"only {written} of {len(line)} bytes were taken")
        except OSError as error:
            self.lost += 1
            self.trouble = (
                f"{error.strerror or error}: {error.filename or self._path or self._store.live}"
            )
            return
        self._bytes += len(line)
        self._lines += 1
        self.written += 1
        if not self._next_try:
            self.trouble = None
        self._land_if(self._bytes >= self._most_bytes)

    def tend(self) -> None:
        """Land a file that is old, and leave one that somebody deleted; to be called now and then."""
        if self._path and os.fstat(self._descriptor).st_nlink == 0:
            self.lost += self._lines
            self._leave()
        self._land_if(self.waiting_seconds > self._most_seconds)

    def land(self) -> None:
        """End the file, so that the next data run reads it; where it cannot be moved it stays, and is tried again."""
        if self._path is None:
            return
        try:
            _put_below_raw(self._store, self._path, self._descriptor)
        except OSError as error:
            self.trouble, self._next_try = (
                f"{error.strerror}: {error.filename}",
                time.monotonic() + AGAIN_SECONDS,
            )
            return
        self._leave()

    def _land_if(self, is_due: bool) -> None:
        if is_due and time.monotonic() >= self._next_try:
            self.land()

    def _leave(self) -> None:
        os.close(self._descriptor)
        self._path = None
        if self._next_try:
            self._next_try, self.trouble = 0.0, None


def land_leftovers(store: Store) -> int:
    """Land the live files that no process holds any more, each once whoever else is trying; how many there were."""
    return sum(_land_leftover(store, path) for path in sorted(store.live.glob("*.jsonl")))


def _begin(folder: Path) -> tuple[Path, int]:
    """A new file that this process holds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{uuid4().hex[:8]}.jsonl"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    if _take(path, descriptor):
        return path, descriptor
    os.close(descriptor)
    return _begin(
        folder
    )  # somebody who looked for leftovers was quicker than the lock, and took the empty file away


def _land_leftover(store: Store, path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        if is_left := _take(path, descriptor):
            _put_below_raw(store, path, descriptor)
        return is_left
    finally:
        os.close(descriptor)


def _take(path: Path, descriptor: int) -> bool:
    """Hold the file, unless somebody holds it or has moved it away."""
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False


def _put_below_raw(store: Store, path: Path, descriptor: int) -> None:
    """One rename; a line that a kill cut off was no client's yet, and is cut off whole."""
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
