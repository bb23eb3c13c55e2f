"""What has landed in `data/raw`: every file passed over as bytes once, before any SQL reads it.

The catalog (`data/landed/catalog.json`) is the account's independent side: each file's lines counted over its bytes,
its hash, and the portion in which SQL reads it and keeps what it has read.
"""

import hashlib
import math
import os
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from jollyboat.landing import records
from jollyboat.landing.prediction_log import land_leftovers
from jollyboat.store import Store, hash_file, read_json, write_json, write_text
from jollyboat.store.errors import UserError

FURTHEST_DAYS = 366  # ahead of the clock: a day beyond that would end every session and empty every window of days


@dataclass(frozen=True)
class LandedFile:
    """One file of a source: what it holds by its bytes, and what the reader is to read in its place."""

    file_seq: int
    source: str
    file: str
    arrived_on: str | None
    bytes: int
    modified_ns: int
    sha256: str
    line_count: int
    blank_count: int
    portion: int
    read_from: str | None
    damage: str | None


@dataclass(frozen=True)
class Landing:
    """What a look at the raw folders found: the whole catalog, and what differs from the look before.

    `fingerprint` is the same for as long as the same files are read in the same way.
    """

    files: list[LandedFile]
    fingerprint: str
    new: list[str]
    changed: list[str]
    removed: list[str]
    unnamed_sources: list[str]

    @property
    def new_line_count(self) -> int:
        """Lines of the files that are new or have changed."""
        names = {*self.new, *self.changed}
        return sum(file.line_count for file in self.files if file.file in names)


def land(
    store: Store,
    sources: Iterable[str],
    feedback_sources: Iterable[str] = (),
    lines_at_once: float = math.inf,
) -> Landing:
    """Bring the catalog up to date with `data/raw/<source>/dt=*/*` and say what is new, changed and gone.

    New and changed files are put into portions of about `lines_at_once` lines of one source, and stay in them.

    Only files whose size or time changed are read again, or all of them once records.py is another. A source
    without a folder has no file yet. A server's log that lost its process lands first. Raises UserError where the raw
    folder is missing, cannot be listed or holds no file of any source (feedback does not count: it is about events).
    """
    land_leftovers(store)
    reader = hash_file(Path(records.__file__))
    catalog = read_json(_catalog(store), default={"reader": reader, "files": []})
    is_read_anew = catalog.get("reader") != reader
    known = {entry["file"]: LandedFile(**entry) for entry in catalog["files"]}
    found = {_name(store, path): path for source in sources for path in _files_of(store, source)}
    if not found:
        raise UserError(_no_logs(store, sources))
    found |= {
        _name(store, path): path for source in feedback_sources for path in _files_of(store, source)
    }
    fresh = [
        name for name, path in found.items() if is_read_anew or not _is_same(known.get(name), path)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        inspections = dict(
            zip(
                fresh,
                pool.map(lambda name: records.inspect_file(found[name], store.landed), fresh),
                strict=True,
            )
        )

    kept = {
        name: entry for name, entry in known.items() if name in found and name not in inspections
    }
    last = max((entry.file_seq for entry in known.values()), default=0)
    added, changed = {}, []
    for name in sorted(fresh, key=lambda name: (_day_of(found[name]) or "", name)):
        entry = _entry(store, found[name], name, inspections[name])
        if name in known and known[name].sha256 == entry.sha256:
            kept[name] = replace(entry, file_seq=known[name].file_seq, portion=known[name].portion)
            continue
        last += 1
        added[name] = replace(entry, file_seq=last)
        changed += [name] if name in known else []
    first_portion = 1 + max((entry.portion for entry in known.values()), default=0)
    portioned = _in_portions(added.values(), first_portion, lines_at_once)
    files = sorted([*kept.values(), *portioned], key=lambda entry: entry.file_seq)
    removed = sorted(set(known) - set(found))
    _keep_salt(store)
    write_text(store.landed / "nothing.jsonl", "")
    store.staged.mkdir(exist_ok=True)
    write_json(_catalog(store), {"reader": reader, "files": [asdict(entry) for entry in files]})
    return Landing(
        files=files,
        fingerprint=_fingerprint(reader, files),
        new=[name for name in added if name not in known],
        changed=changed,
        removed=removed,
        unnamed_sources=sorted(
            _printable(name) for name in _folders(store) - {*sources, *feedback_sources}
        ),
    )


def _in_portions(files: Iterable[LandedFile], first: int, lines_at_once: float) -> list[LandedFile]:
    """The files with the number of their portion, from `first` on."""
    lines: dict[str, int] = {}
    portioned = []
    for file in files:
        before = lines.get(file.source, 0)
        portioned.append(replace(file, portion=first + int(before // lines_at_once)))
        lines[file.source] = before + file.line_count
    return portioned


def _fingerprint(reader: str, files: Iterable[LandedFile]) -> str:
    content = [(file.file_seq, file.file, file.sha256, file.portion, file.damage) for file in files]
    return hashlib.sha256(repr([reader, content]).encode()).hexdigest()[:16]


def _keep_salt(store: Store) -> None:
    """Keep what personal fields are hashed with where SQL reads it: PERSONAL_SALT, or made once."""
    before = store.read_salt()
    salt = os.environ.get("PERSONAL_SALT", "").strip() or before or secrets.token_hex(32)
    if salt != before:
        write_text(store.salt, salt)
        store.salt.chmod(0o600)


def _catalog(store: Store) -> Path:
    return store.landed / "catalog.json"


def _name(store: Store, path: Path) -> str:
    return _printable(path.relative_to(store.root).as_posix())


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _folders(store: Store) -> set[str]:
    try:
        return {
            entry.name
            for entry in os.scandir(store.raw)
            if entry.is_dir() and not entry.name.startswith(".")
        }
    except FileNotFoundError:
        raise UserError(
            f"No raw logs: {store.raw} does not exist. Put files under data/raw/<source>/dt=YYYY-MM-DD/, "
            "or `make simulate`; then `make data`."
        ) from None
    except PermissionError:
        raise UserError(
            f"{store.raw} cannot be read; `chmod u+rx` it and run the same command again."
        ) from None


def _no_logs(store: Store, sources: Iterable[str]) -> str:
    others = ", ".join(sorted(_printable(name) for name in _folders(store) - set(sources)))
    unnamed = (
        f" Name {others}, which is there, under vars: sources in dbt/dbt_project.yml,"
        if others
        else ""
    )
    return (
        f"No raw logs: {store.raw} holds no file of the sources {', '.join(sources)}.{unnamed or ' Put'} "
        f"{'or put ' if others else ''}files under data/raw/<source>/dt=YYYY-MM-DD/, or `make simulate`; "
        "then `make data`."
    )


def _files_of(store: Store, source: str) -> list[Path]:
    folder = store.raw / source
    if source not in _folders(store):
        return []
    refused: list[OSError] = []
    found = [
        Path(place) / name
        for place, folders, names in os.walk(folder, onerror=refused.append)
        for name in [*names, *(each for each in folders if Path(place, each).is_symlink())]
        if not any(part.startswith(".") for part in [*Path(place).relative_to(folder).parts, name])
    ]
    if refused:
        raise UserError(
            f"{refused[0].filename} cannot be read ({refused[0].strerror}); "
            "`chmod u+rx` it and run the same command again."
        )
    return sorted(found)


def _is_same(entry: LandedFile | None, path: Path) -> bool:
    if entry is None or entry.damage == "unreadable_file":
        return False  # a permission that was given since leaves size and time as they were
    status = path.lstat() if not path.exists() else path.stat()
    return (entry.bytes, entry.modified_ns) == (status.st_size, status.st_mtime_ns)


def _day_of(path: Path) -> str | None:
    for part in reversed(path.parts[:-1]):
        if part.startswith("dt="):
            try:
                day = date.fromisoformat(part.removeprefix("dt="))
            except ValueError:
                return None
            return day.isoformat() if day <= date.today() + timedelta(FURTHEST_DAYS) else None
    return None


def _entry(store: Store, path: Path, name: str, found: records.Inspection) -> LandedFile:
    day = _day_of(path)
    damage = found.damage or (None if day else "no_arrival_day")
    return LandedFile(
        file_seq=0,
        source=path.relative_to(store.raw).parts[0],
        file=name,
        arrived_on=day,
        bytes=found.bytes,
        modified_ns=found.modified_ns,
        sha256=found.sha256,
        line_count=1 if damage else found.line_count,
        blank_count=0 if damage else found.blank_count,
        portion=0,
        read_from=None if damage else (found.copy or path).relative_to(store.root).as_posix(),
        damage=damage,
    )
