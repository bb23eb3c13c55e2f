"""The right to publish data in a bucket: one command has it at a time, on whatever machine.

The holder renews it while it works. A lease that was not renewed for EXPIRES_AFTER seconds, by the
server's clock, is anybody's: its holder died. Where that seems so already, the next one waits for
its end, as the pod does that takes the place of an evicted one.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

from jollyboat.store.bucket import Bucket, ObjectMoved, person
from jollyboat.store.errors import UserError
from jollyboat.store.locks import is_alive

NAME = "leases/data.json"
EXPIRES_AFTER = 120
RENEWED_EVERY = 20
SILENT_AFTER = 45  # two renewals are missing: the holder probably died
LOOKED_EVERY = 2


class Lease:
    """The lease of this process, from `with` to its end; UserError where somebody else has it."""

    def __init__(self, bucket: Bucket):
        self.bucket = bucket
        self._etag, self._is_lost = "", False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        since = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"by": person(), "host": socket.gethostname(), "pid": os.getpid(), "since": since}
        self._content = json.dumps(about).encode()
        try:
            self._etag = self.bucket.write(NAME, self._content, None)
        except ObjectMoved:
            self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if not self._is_lost:
            with suppress(UserError):  # it expires
                self.bucket.delete([NAME])

    def check(self) -> None:
        """UserError where the lease was taken over, as when this machine slept."""
        if self._is_lost:
            raise UserError(
                f"This command lost the right to publish in {self.bucket.address}: it was not "
                f"renewed for {EXPIRES_AFTER} seconds. Nothing was published; run the same "
                "command again."
            )

    def _take_over(self) -> None:
        while (held := self.bucket.read(NAME)) and (age := lease_age(self.bucket)) is not None:
            holder = json.loads(held[0])
            is_here = holder["host"] == socket.gethostname()
            if age >= EXPIRES_AFTER or (is_here and not is_alive(holder["pid"])):
                break
            if age < SILENT_AFTER:
                raise UserError(f"{format_lease(holder)} {_advice(age)}")
            time.sleep(LOOKED_EVERY)
        try:
            self._etag = self.bucket.write(NAME, self._content, held and held[1])
        except ObjectMoved:
            raise UserError(
                f"Somebody else began to publish in {self.bucket.address} at the same moment. "
                "Run the same command again."
            ) from None

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY):
            try:
                self._etag = self.bucket.write(NAME, self._content, self._etag)
            except ObjectMoved:
                self._is_lost = True
                return
            except UserError:  # the network; the next attempt may pass
                continue


def lease_age(bucket: Bucket) -> float | None:
    """The seconds since the lease was last renewed; None without one."""
    one = bucket.objects(NAME).get(NAME)
    return bucket.seconds_since(one.modified) if one else None


def read_lease(bucket: Bucket) -> str:
    """Who holds the lease since when, as a sentence; empty where nobody does."""
    held, age = bucket.read(NAME), lease_age(bucket)
    if held is None or age is None:
        return ""
    expired = " It was not renewed and is free." if age >= EXPIRES_AFTER else ""
    return format_lease(json.loads(held[0])) + expired


def format_lease(holder: dict) -> str:
    """Who holds the lease since when, as a sentence."""
    return (
        f"{holder['by']} on {holder['host']} (process {holder['pid']}) has been writing since "
        f"{holder['since']}."
    )


def _advice(age: float) -> str:
    left = EXPIRES_AFTER - age
    return (
        "Wait for it to end, then run the same command again; if it was killed, its right ends in "
        f"{left:.0f} seconds."
    )
