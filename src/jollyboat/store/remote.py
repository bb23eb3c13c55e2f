"""The files below `data/` and their copies in a bucket: `[store] remote` in project.toml.

A command pulls what it needs before it works and pushes what it changed when it ends. Files that
never change go first and pointers last, each under the condition that nobody else moved it.
`data/.remote.json` has what this machine and the bucket had in common when they last met.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from jollyboat.store.bucket import Bucket, Object, ObjectMoved, in_parallel
from jollyboat.store.errors import UserError
from jollyboat.store.files import read_json, replacing, write_json
from jollyboat.store.lease import NAME as LEASE
from jollyboat.store.lease import Lease, read_lease
from jollyboat.store.locks import locked
from jollyboat.store.project import PROJECT

LAYOUT = 1  # what lies where in the bucket; raised when an older library would misread it
MARKER = "jollyboat.json"
# Replaced under a condition, after everything else.
POINTERS = {
    *("latest.json", "champion.json", "tenants.json", "policy.json", "experiment.json"),
    *("catalog.json", "accepted_days.json", "alerts.json", "erasures.jsonl", "tags.json"),
}
# What stays on this machine: it is written again from the rest, or belongs to a process here.
LOCAL = {"live", "dbt", "docs", "smoke"}
LOGS = {"raw", "landed", "staged", "shards"}
STAGED = {"landed", "staged", "accepted_days.json"}
# What a task reads and writes. A server needs no logs and no rows, and writes only logs.
SCOPES: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "results": lambda name: _first(name) not in LOGS,
    "staged": lambda name: _first(name) in STAGED,
    "shards": lambda name: _first(name) in {*STAGED, "shards"},
    "tables": lambda name: _first(name) != "raw",
    "served": lambda name: name.startswith(SERVED) and _first(name) != "runs",
    "answers": lambda name: name.startswith("raw/"),
}
SERVED = (
    *("models/", "questions/", "snapshots/", "scores/", "withdrawn/"),
    *("tables/lookup_", "tables/int_data_end/"),
    *("monitor/", "reports/", "index.html", "erasures.jsonl"),
)
ATTEMPTS = 5
ROUNDS = 200_000


class Remote:
    """A store's copy in a bucket, for one command; `scope` is what the command reads and writes."""

    def __init__(self, root: Path, address: str):
        self.root, self.bucket = root, Bucket(address)
        self._record_file = root / ".remote.json"
        self._before: set[str] = set()
        self.scope = "all"
        self.lease: Lease | None = None

    def begin(self, scope: str, salt: str = "") -> None:
        """Check that the bucket is this project's, and pull what is in the scope."""
        marker = self._marker()
        if scope != "results":
            _check_salt(marker.get("salt"), salt, self.bucket.address)
        self.scope = scope
        self.pull()
        self._before = self.names()

    def keep_salt(self, salt: str) -> None:
        """Write a check of the salt, never the salt, unless the bucket has one."""
        if "salt" not in self._marker():
            content, etag = self.bucket.read(MARKER)
            marker = json.loads(content) | {"salt": hash_salt(salt)}
            with suppress(ObjectMoved):
                self.bucket.write(MARKER, json.dumps(marker).encode(), etag)
            _check_salt(self._marker().get("salt"), salt, self.bucket.address)

    def _marker(self) -> dict:
        project = _project_toml().get("project", {}).get("slug", "")
        if (content := self.bucket.read(MARKER)) is None:
            marker = {"project": project, "layout": LAYOUT}
            try:
                self.bucket.write(MARKER, json.dumps(marker).encode(), None)
                self._record_file.unlink(missing_ok=True)  # an emptied bucket removes nothing here
                return marker
            except ObjectMoved:
                content = self.bucket.read(MARKER)
        marker = json.loads(content[0])
        if marker["project"] != project:
            raise UserError(
                f"{self.bucket.address} has the data of the project {marker['project']}, and this "
                f"is {project}. Choose another prefix in project.toml: [store] remote."
            )
        if marker["layout"] > LAYOUT:
            raise UserError(
                f"{self.bucket.address} was written by a newer version of Jollyboat. Take that "
                "version (`jollyboat upgrade`), or the image with it."
            )
        return marker

    def pull(self) -> None:
        """Bring the files of the scope here that are new or changed there."""
        with locked(self.root / ".remote.lock"):
            for _ in range(ATTEMPTS):
                with suppress(ObjectMoved):  # replaced since it was listed
                    return self._pull()
        raise UserError(
            f"{self.bucket.address} is changing too fast to be read; run the same command again."
        )

    def _pull(self) -> None:
        there, is_wanted = self._list(), SCOPES[self.scope]
        with self._recording() as record:
            for name in [name for name in record if is_wanted(name) and name not in there]:
                if self._state(name) == record.pop(name)[1:]:
                    self._unlink(name)
            new = [
                name
                for name, one in there.items()
                if record.get(name, [None])[0] != one.etag or not (self.root / name).exists()
            ]
            for names in ([n for n in new if not is_pointer(n)], filter(is_pointer, new)):
                in_parallel(partial(self._fetch, record, there), names)

    def fetch(self, names: Collection[str]) -> None:
        """Bring these files here, whether they are in the scope or not."""
        folders = {name.partition("/")[0] for name in names}
        listed = in_parallel(self.bucket.objects, [f"{folder}/" for folder in folders])
        there = {name: one for objects in listed for name, one in objects.items()}
        wanted = [name for name in names if name in there and not self._exists(name)]
        with locked(self.root / ".remote.lock"), self._recording() as record:
            in_parallel(partial(self._fetch, record, there), wanted)

    def _list(self) -> dict[str, Object]:
        """The objects of the scope; those of other folders, which may be many, are not listed."""
        is_wanted = SCOPES[self.scope]
        if self.scope == "served":
            prefixes = list(SERVED)
        else:
            folders = self.bucket.folders()
            prefixes = [each for each in folders if is_shared(each.rstrip("/")) and is_wanted(each)]
        return {
            name: one
            for objects in in_parallel(self.bucket.objects, prefixes)
            for name, one in objects.items()
            if is_shared(name) and is_wanted(name)
        }

    def _fetch(self, record: dict[str, list], there: dict[str, Object], name: str) -> None:
        path, one = self.root / name, there[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        is_edited = path.exists() and self._state(name) != record.get(name, [None])[1:]
        with replacing(path) as draft:
            modified_ns = self.bucket.download(name, draft, one.etag)
            if _first(name) == "raw" and is_edited and draft.read_bytes() != path.read_bytes():
                raise UserError(
                    f"data/{name} was changed here, and {self.bucket.address}/{name} too. "
                    "Remove or rename one of them, then run the same command again."
                )
            modified_ns = modified_ns or int(one.modified.timestamp()) * 1_000_000_000
            os.utime(draft, ns=(modified_ns, modified_ns))
        record[name] = [one.etag, *self._state(name)]

    def push(self) -> None:
        """Copy the files of the scope that are new or changed here, pointers last.

        What was here when the command began and is gone goes there, too. UserError where somebody
        else moved a pointer: theirs is then here.
        """
        with locked(self.root / ".remote.lock"), self._recording() as record:
            # Read first: what these name was written before them.
            pointers = {name: self._read(name) for name in filter(is_pointer, self.names())}
            names = self.names()
            changed = [name for name in names if self._state(name) != record.get(name, [None])[1:]]
            logs = [name for name in changed if _first(name) == "raw"]
            files = [name for name in changed if _first(name) != "raw" and not is_pointer(name)]
            for each in (logs, files):  # what is made of logs never comes before them
                in_parallel(partial(self._send, record), each)
            lost = [
                name
                for name in changed
                if name in pointers and not self._move(record, name, *pointers[name])
            ]
            gone = [name for name in self._before if name not in names and not self._exists(name)]
            self.bucket.delete(gone)
            for name in gone:
                record.pop(name, None)
            self._before &= names
        if lost:
            writer = self.bucket.writer(lost[0])
            self.pull()
            raise UserError(
                f"{lost[0]} was replaced by {writer}, while this command worked. What it made is "
                "kept, but nothing points to it. Look with `jollyboat status`, then run the same "
                "command again."
            )

    def _send(self, record: dict[str, list], name: str) -> None:
        with suppress(FileNotFoundError):  # removed since it was listed
            state = self._state(name)
            record[name] = [self.bucket.upload(name, self.root / name), *state]

    def _move(self, record: dict[str, list], name: str, content: bytes, state: list) -> bool:
        """Whether the pointer is now this machine's."""
        if self.lease:
            self.lease.check()  # also after its end: who lost it publishes nothing
        try:
            etag = self.bucket.write(name, content, record.get(name, [None])[0], state[1])
        except ObjectMoved:
            theirs = self.bucket.read(name)
            if not theirs or theirs[0] != content:
                record.pop(name, None)
                return False
            etag = theirs[1]
        record[name] = [etag, *state]
        return True

    def names(self) -> set[str]:
        """The files here that the bucket should have."""
        names = set()
        for folder, folders, files in os.walk(self.root):
            place = Path(folder).relative_to(self.root)
            folders[:] = [each for each in folders if is_shared((place / each).as_posix())]
            names.update(name for each in files if is_shared(name := (place / each).as_posix()))
        names = {name for name in names if SCOPES[self.scope](name)}
        if odd := [name for name in names if not _is_unicode(name)]:
            raise UserError(
                f"A bucket cannot have the file {os.fsencode(odd[0])!r}: its name is not UTF-8. "
                "Rename it, then run the same command again."
            )
        return names

    def describe(self) -> str:
        """What differs here and there, and who holds the lease, as a sentence."""
        here, there = self._difference()
        if here or there:
            state = f"files new or changed here {here:,}, there {there:,}"
        else:
            state = "all that is there is here"
        lease = read_lease(self.bucket)
        return f"{state}. {lease}".rstrip() if lease else f"{state}; nobody publishes"

    def _difference(self) -> tuple[int, int]:
        """How many files are only here or changed here, and how many only there."""
        record, there = self._record(), self._list()
        here = self.names()
        changed = sum(self._state(name) != record.get(name, [None])[1:] for name in here)
        news = sum(
            record.get(name, [None])[0] != one.etag or name not in here
            for name, one in there.items()
        )
        return changed, news

    def _state(self, name: str) -> list[int]:
        try:
            status = (self.root / name).stat()
        except FileNotFoundError:
            return []
        return [status.st_size, status.st_mtime_ns]

    def _read(self, name: str) -> tuple[bytes, list]:
        return (self.root / name).read_bytes(), self._state(name)

    def _exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def _unlink(self, name: str) -> None:
        path = self.root / name
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it has other files
            for folder in path.relative_to(self.root).parents[:-1]:
                (self.root / folder).rmdir()

    def _record(self) -> dict[str, list]:
        content = read_json(self._record_file, default={})
        return content.get("files", {}) if content.get("address") == self.bucket.address else {}

    @contextmanager
    def _recording(self) -> Iterator[dict[str, list]]:
        """The record; what was changed of it is kept, however the block ends."""
        record = self._record()
        before = dict(record)
        try:
            yield record
        finally:
            if record != before:
                write_json(self._record_file, {"address": self.bucket.address, "files": record})


def is_shared(name: str) -> bool:
    """Whether a file or folder below `data/` has a copy in the bucket; hidden ones do not."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    is_local = _first(name) in LOCAL or name.startswith("warehouse.duckdb")
    return name not in {MARKER, LEASE} and not is_local and not hidden


def is_pointer(name: str) -> bool:
    """Whether a file says which of the others hold, and so is replaced under a condition."""
    return name.rpartition("/")[2] in POINTERS and _first(name) not in {"raw", "tables", "scores"}


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first(name: str) -> str:
    """The first part of a name; of another question's files the part after the question."""
    first, _, rest = name.partition("/")
    return rest.split("/")[1] if first == "questions" and "/" in rest else first


def hash_salt(salt: str) -> str:
    """What tells two salts apart and is slow to guess from: PBKDF2 (RFC 8018)."""
    return hashlib.pbkdf2_hmac("sha256", salt.encode(), b"jollyboat", ROUNDS).hex()[:32]


def _check_salt(check: str | None, salt: str, address: str) -> None:
    if check and (not salt or hash_salt(salt) != check):
        raise UserError(
            f"The ids in {address} are hashed with {'another' if salt else 'a'} salt. Set "
            "PERSONAL_SALT to it: data/.salt on the machine that began has it, and the bucket "
            "never does."
        )


def remote_address() -> str:
    """STORE_REMOTE, or `[store] remote` of project.toml; empty for this machine's files alone.

    The setting is for the project's own data/, not for another folder that STORE_ROOT names.
    """
    named = os.environ.get("STORE_REMOTE")
    if named is not None:
        return named
    setting = _project_toml().get("store", {}).get("remote", "")
    return "" if os.environ.get("STORE_ROOT") else str(setting)


def _project_toml() -> dict:
    """The settings as they are written; a wrong entry is reported where they are checked."""
    try:
        return tomllib.loads((PROJECT / "project.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
