"""The catalog of `data/raw`: each file is read once as bytes before SQL reads it.

The catalog (`data/landed/catalog.json`) has each file's line count over its bytes, its hash, and
its portion: the files that SQL reads together and keeps together.
"""

import hashlib
import math
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from jollyboat.landing import records
from jollyboat.landing.prediction_log import land_leftovers
from jollyboat.store import (
    Store,
    UserError,
    hash_addresses,
    hash_file,
    keep_salt,
    read_json,
    write_json,
    write_text,
)
from jollyboat.store.limits import core_count

# A day further ahead of the clock would end every session and empty every window of days.
FURTHEST_DAYS = 366
WHERE_TO_PUT = "Put files under data/raw/<source>/dt=YYYY-MM-DD/ or run `make simulate`"


@dataclass(frozen=True)
class LandedFile:
    """One file of a source: its counts, its hash, and the file to read in its place, if any."""

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
    has_header: bool = True
    is_accepted: bool = False  # a person accepts that a damaged file stays out


@dataclass(frozen=True)
class Landing:
    """The whole catalog, and its differences from the catalog before.

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
        """The number of lines of the new and changed files."""
        names = {*self.new, *self.changed}
        return sum(file.line_count for file in self.files if file.file in names)

    @property
    def unreadable(self) -> list[LandedFile]:
        """The files that cannot be read; those that nobody accepted come first."""
        damaged = [file for file in self.files if file.damage]
        return sorted(damaged, key=lambda file: (file.is_accepted, file.file))


def land(
    store: Store,
    sources: Iterable[str],
    feedback_sources: Iterable[str] = (),
    lines_at_once: float = math.inf,
    accepts: bool = False,
    tenant: str | None = None,
) -> Landing:
    """Bring the catalog up to date with the files `data/raw/<source>/dt=*/*`.

    New and changed files get portions of about `lines_at_once` lines of one source and stay in
    them. Only files whose size, time or day changed are read, or all files if records.py changed.
    The prediction logs of servers that ended without landing them are landed first. With `accepts`,
    the files that cannot be read now are accepted until they change; with `tenant`, only those that
    name it. Raises UserError if the raw folder is missing, cannot be listed, or has no file of
    `sources`.
    """
    land_leftovers(store)
    keep_salt_file(store, secrets.token_hex(32))
    reader = hash_file(Path(records.__file__))
    last_reader, before = _read_before(store)
    folders = _source_folders(store)
    paths = raw_paths(store, folders.intersection(sources))
    if not paths:
        raise UserError(_no_logs(store, sources, folders.difference(sources)))
    paths |= raw_paths(store, folders.intersection(feedback_sources))
    unread = {
        name: path
        for name, path in paths.items()
        if last_reader != reader or not _is_same(before.get(name), path)
    }
    inspected = _inspect(store, unread)
    kept, added = _compare(inspected, before)
    kept += [before[name] for name in before.keys() & paths.keys() - inspected.keys()]
    added = _number(added, before.values(), lines_at_once)
    files = sorted([*kept, *added], key=lambda entry: entry.file_seq)
    if accepts:
        files = [_accept(file, tenant) for file in files]
    write_text(store.landed / "nothing.jsonl", "")  # SQL reads it where a source has no file
    store.staged.mkdir(exist_ok=True)
    if not store.accepted_days.exists():
        write_json(store.accepted_days, [])
    write_json(_catalog(store), {"reader": reader, "files": [asdict(entry) for entry in files]})
    return Landing(
        files=files,
        fingerprint=_fingerprint(reader, files),
        new=[entry.file for entry in added if entry.file not in before],
        changed=[entry.file for entry in added if entry.file in before],
        removed=sorted(before.keys() - paths.keys()),
        unnamed_sources=sorted(map(_printable, folders - {*sources, *feedback_sources})),
    )


def _read_before(store: Store) -> tuple[str | None, dict[str, LandedFile]]:
    """The hash of the code that last read files, and the files of the catalog by their name."""
    catalog = read_json(_catalog(store), default={}, files=list)
    try:
        files = {entry["file"]: LandedFile(**entry) for entry in catalog.get("files", [])}
    except (LookupError, TypeError) as error:
        raise UserError(
            f"{_catalog(store)} is not as `make data` writes it ({error!r}). "
            "Delete it, then run `make data`."
        ) from error
    return catalog.get("reader"), files


def _compare(
    inspected: Mapping[str, LandedFile], before: Mapping[str, LandedFile]
) -> tuple[list[LandedFile], list[LandedFile]]:
    """The files with the content of before, under their numbers, and those with other content."""
    kept, added = [], []
    for name, entry in inspected.items():
        old = before.get(name)
        if old is None or old.sha256 != entry.sha256:
            added.append(entry)
            continue
        is_accepted = old.is_accepted and old.damage == entry.damage
        numbers = {"file_seq": old.file_seq, "portion": old.portion}
        kept.append(replace(entry, **numbers, is_accepted=is_accepted))
    return kept, added


def _accept(file: LandedFile, tenant: str | None) -> LandedFile:
    """The file, accepted if it is damaged; with a tenant, only a file that names it."""
    if tenant in (None, *_tenants_named_by(file.file)):
        return replace(file, is_accepted=file.damage is not None)
    return file


def read_catalog(store: Store) -> tuple[list[LandedFile], str]:
    """The files that have landed, and their fingerprint."""
    catalog = read_json(_catalog(store), default={"reader": "", "files": []}, files=list)
    files = [LandedFile(**entry) for entry in catalog["files"]]
    return files, _fingerprint(catalog["reader"], files)


def raw_paths(store: Store, sources: Iterable[str]) -> dict[str, Path]:
    """The files of the sources by their names in the catalog, where addresses are hashed."""
    paths = sorted(path for source in sources for path in _walk(store.raw / source))
    salt = store.read_salt()
    return {_name(path.relative_to(store.root), salt): path for path in paths}


def _name(path: Path, salt: str) -> str:
    name = _printable(path.as_posix())
    kind, zipped = records.format_of(path)
    suffix = kind + zipped if kind in (*records.TEXT_SUFFIXES, ".parquet") else zipped
    stem = name[: len(name) - len(suffix)]
    return hash_addresses(stem, salt) + name[len(stem) :]


def _inspect(store: Store, paths: dict[str, Path]) -> dict[str, LandedFile]:
    """The entry of each file by its name, not yet numbered."""
    with ThreadPoolExecutor(core_count()) as pool:
        inspections = pool.map(
            lambda path: records.inspect_file(path, store.landed), paths.values()
        )
        return {
            name: _entry(store, path, name, inspection)
            for (name, path), inspection in zip(paths.items(), inspections, strict=True)
        }


def _number(
    files: list[LandedFile], before: Iterable[LandedFile], lines_at_once: float
) -> list[LandedFile]:
    """The files in order of arrival with the next numbers and portions."""
    last_seq = max((entry.file_seq for entry in before), default=0)
    last_portion = max((entry.portion for entry in before), default=0)
    line_counts = Counter()
    numbered = []
    in_order = sorted(files, key=lambda entry: (entry.arrived_on or "", entry.file))
    for file_seq, file in enumerate(in_order, last_seq + 1):
        portion = last_portion + 1 + int(line_counts[file.source] // lines_at_once)
        line_counts[file.source] += file.line_count
        numbered.append(replace(file, file_seq=file_seq, portion=portion))
    return numbered


def _fingerprint(reader: str, files: Iterable[LandedFile]) -> str:
    content = [
        (file.file_seq, file.file, file.sha256, file.portion, file.damage, file.is_accepted)
        for file in files
    ]
    return hashlib.sha256(repr([reader, content]).encode()).hexdigest()[:16]


def keep_salt_file(store: Store, salt: str = "") -> None:
    """Write the salt for personal fields where SQL reads it: the present one, else this one."""
    salt = store.read_salt() or salt
    keep_salt(salt)
    if not store.salt.exists() or salt != store.salt.read_text(encoding="utf-8").strip():
        write_text(store.salt, salt)
        store.salt.chmod(0o600)


def _catalog(store: Store) -> Path:
    return store.landed / "catalog.json"


def _tenants_named_by(file: str) -> list[str]:
    """The tenants whose file it may be, as the model quarantined_events reads them."""
    *folders, name = file.split("/")
    named = [folder.removeprefix("tenant=") for folder in folders if folder.startswith("tenant=")]
    return [*named, name.partition(".")[0]]


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _source_folders(store: Store) -> set[str]:
    try:
        entries = list(os.scandir(store.raw))
    except FileNotFoundError:
        raise UserError(
            f"No raw logs: {store.raw} does not exist. {WHERE_TO_PUT}, then run `make data`."
        ) from None
    except PermissionError:
        raise UserError(_not_readable(store.raw)) from None
    return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}


def _not_readable(path: Path | str) -> str:
    return f"{path} cannot be read. Run `chmod u+rx` on it, then run the same command again."


def _no_logs(store: Store, sources: Iterable[str], unnamed: set[str]) -> str:
    sentence = f"No raw logs: {store.raw} has no file of the sources {', '.join(sources)}."
    if unnamed:
        others = ", ".join(sorted(map(_printable, unnamed)))
        sentence += f" It has {others}; name a source under vars: sources in dbt/dbt_project.yml."
    return f"{sentence} {WHERE_TO_PUT}, then run `make data`."


def _walk(folder: Path) -> Iterable[Path]:
    """Every file below the folder; a link to a folder counts as a file.

    Hidden files are not read, nor are markers of other tools, such as _SUCCESS.
    """

    def refuse(error: OSError) -> None:
        raise UserError(_not_readable(error.filename)) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(place, name).is_symlink()]
        paths = (Path(place, name) for name in [*names, *links] if not name.startswith("."))
        yield from (path for path in paths if path.suffix or not path.name.startswith("_"))


def _is_same(entry: LandedFile | None, path: Path) -> bool:
    if entry is None or entry.damage == "unreadable_file":
        return False  # a permission that was given later changes neither size nor time
    if entry.arrived_on != _day_of(path):
        return False  # another clock decides which day is too far ahead
    status = path.stat() if path.exists() else path.lstat()
    return (entry.bytes, entry.modified_ns) == (status.st_size, status.st_mtime_ns)


def _day_of(path: Path) -> str | None:
    """The day in the nearest folder dt=YYYY-MM-DD; None if it is no day or too far ahead."""
    days = [part[3:] for part in path.parts[:-1] if part[:3].lower() == "dt="]
    try:
        day = date.fromisoformat(days[-1])
    except (IndexError, ValueError):
        return None
    return day.isoformat() if day <= date.today() + timedelta(FURTHEST_DAYS) else None


def _entry(store: Store, path: Path, name: str, inspection: records.Inspection) -> LandedFile:
    day = _day_of(path)
    damage = inspection.damage or (None if day else "no_arrival_day")
    return LandedFile(
        file_seq=0,
        source=path.relative_to(store.raw).parts[0],
        file=name,
        arrived_on=day,
        bytes=inspection.bytes,
        modified_ns=inspection.modified_ns,
        sha256=inspection.sha256,
        line_count=1 if damage else inspection.line_count,
        blank_count=0 if damage else inspection.blank_count,
        portion=0,
        read_from=None if damage else (inspection.copy or path).relative_to(store.root).as_posix(),
        damage=damage,
        has_header=inspection.has_header,
    )
