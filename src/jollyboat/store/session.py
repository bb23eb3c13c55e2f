"""One command's or server's work with the bucket: pull before, push after, publish alone.

Without a bucket each of these does nothing.
"""

import io
import logging
import os
import tarfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from jollyboat.store.bucket import Bucket, Unreachable, in_parallel
from jollyboat.store.errors import UserError
from jollyboat.store.lease import Lease
from jollyboat.store.paths import Store
from jollyboat.store.remote import Remote

log = logging.getLogger(__name__)

FOLLOWED_EVERY = 10  # seconds between two looks of a server

_active: Remote | None = None  # of the command that this process runs
_one_at_a_time = threading.RLock()  # of a server's threads


@contextmanager
def synced(store: Store, scope: str) -> Iterator[None]:
    """Pull what the block needs, and push what it changed, even where a UserError ends it."""
    global _active
    if not store.remote:
        yield
        return
    with _one_at_a_time:
        if _active:  # the block is a part of such a block
            yield
            return
        remote = Remote(store.root, store.remote)
        remote.begin(scope, store.read_salt())
        _active = remote
        try:
            yield
            remote.push()
        except (UserError, SystemExit):
            with suppress(UserError):
                remote.push()
            raise
        finally:
            _active = None


@contextmanager
def followed(store: Store) -> Iterator[None]:
    """Keep what a server serves as it is in the bucket, and push the logs that it writes.

    A bucket that does not answer changes nothing: the server goes on with what is here.
    """
    if not store.remote:
        yield
        return
    served, answers = Remote(store.root, store.remote), Remote(store.root, store.remote)
    answers.scope, ended = "answers", threading.Event()
    try:
        served.begin("served", store.read_salt())
    except Unreachable as trouble:
        log.warning("%s", trouble)

    def follow() -> None:
        while not ended.wait(FOLLOWED_EVERY):
            try:
                served.pull()
                answers.push()
            except (UserError, OSError) as trouble:
                log.warning("%s", trouble)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        answers.push()


def fetch(names: Collection[str]) -> None:
    """Bring files from the bucket that the scope of this command leaves there."""
    if _active:
        _active.fetch(names)


def publish() -> None:
    """Push at once what this command wrote, so that it can say that it holds."""
    if _active:
        _active.push()


@contextmanager
def leased() -> Iterator[None]:
    """Hold the right to publish in the bucket, and push before it ends."""
    if not _active:
        yield
        return
    with Lease(_active.bucket) as _active.lease:
        _active.pull()  # what the holder before pushed
        yield
        _active.push()


def remove_history(store: Store) -> str:
    """Remove what a bucket keeps beside the files: old versions, and what Metaflow's tasks left.

    Returns what was removed as a sentence; empty without a bucket. Code packages stay, which
    deployed flows begin with.
    """
    if not store.remote:
        return ""
    tasks = Bucket(metaflow_address(store.remote))
    names = list(tasks.objects())
    are_code = in_parallel(partial(_is_code, tasks), names)
    artifacts = [name for name, is_code in zip(names, are_code, strict=True) if not is_code]
    tasks.delete(artifacts)
    places = [Bucket(store.remote)]
    if not tasks.address.startswith(f"{places[0].address}/"):
        places.append(tasks)
    try:
        count = sum(place.delete_versions() for place in places)
    except UserError as refusal:
        return (
            f"removed {len(artifacts):,} objects of Metaflow's tasks; old versions in the bucket "
            f"could NOT be removed: {refusal} Let a lifecycle rule expire them, or remove them "
            "with other credentials."
        )
    return f"removed {len(artifacts):,} objects of Metaflow's tasks and {count:,} old versions"


def metaflow_address(remote: str) -> str:
    """Where Metaflow keeps artifacts and code packages of tasks on other machines."""
    return os.environ.get("METAFLOW_DATASTORE_SYSROOT_S3") or f"{remote}/.metaflow"


def _is_code(bucket: Bucket, name: str) -> bool:
    """Whether an object is a code package, which is a zipped archive."""
    content = bucket.read(name) if "/data/" in name else None
    if content is None:
        return False
    try:
        tarfile.open(fileobj=io.BytesIO(content[0])).close()
    except tarfile.TarError:
        return False
    return True


def keep_salt(salt: str) -> None:
    """Check a new salt against the one of the bucket; the first one becomes the bucket's."""
    if _active:
        _active.keep_salt(salt)
