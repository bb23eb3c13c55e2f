"""Where everything below `data/` lies, and how its files are replaced and hashed. Nothing else builds these paths."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jollyboat.store.errors import UserError
from jollyboat.store.project import find_project

if TYPE_CHECKING:  # pydantic is imported by who needs it
    from jollyboat.store.settings import Settings

PROJECT = find_project()


class PointerMoved(Exception):
    """Somebody else replaced the pointer since it was read."""


class Store:
    """The folders of one project's data below `root`, which is the only setting."""

    def __init__(self, root: Path):
        self.root = root
        self.raw = root / "raw"
        self.live = root / "live"
        self.salt = root / ".salt"
        self.landed = root / "landed"
        self.staged = root / "staged"
        self.warehouse = root / "warehouse.duckdb"
        self.dbt = root / "dbt"
        self.tables = root / "tables"
        self.snapshots = root / "snapshots"
        self.latest_snapshot = root / "snapshots" / "latest.json"
        self.runs = root / "runs"
        self.latest_run = root / "runs" / "latest.json"
        self.models = root / "models"
        self.experiment = root / "models" / "experiment.json"
        self.scores = root / "scores"
        self.erasing = root / ".erasing.json"
        self.erasures = root / "erasures.jsonl"
        self.monitor = root / "monitor"
        self.reports = root / "reports"
        self.data_docs = root / "reports" / "data_docs"
        self.distributions = root / "reports" / "distributions.json"
        self.failed_rows = root / "reports" / "failed_rows.json"

    def read_salt(self) -> str:
        """What personal texts are hashed with; empty before the first landing makes it."""
        return self.salt.read_text(encoding="utf-8").strip() if self.salt.exists() else ""

    def bundle(self, owner: str, version: str) -> Path:
        """The folder of an owner's bundle."""
        return self.models / owner / version

    def gate(self, owner: str, version: str) -> Path:
        """What the gate said of a bundle, beside it."""
        return self.models / owner / f"{version}-gate.json"

    def champion(self, owner: str) -> Path:
        """The pointer to an owner's champion."""
        return self.models / owner / "champion.json"


def default_store() -> Store:
    """The project's own `data/`, or the folder that the environment variable STORE_ROOT names."""
    return Store(Path(os.environ.get("STORE_ROOT") or PROJECT / "data").absolute())


def project_settings() -> "Settings":
    """What project.toml says, for what is started without a flow; UserError where something in it is wrong."""
    from jollyboat.store import settings

    path = PROJECT / "project.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    return settings.parse(text)


def read_json(path: Path, default: object = None) -> object:
    """What the file holds, or `default` where there is none; a file that is not JSON is refused by its name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); delete it and run the command that writes it again."
        ) from error


def write_json(path: Path, value: object) -> None:
    """Write the file whole or not at all: a reader sees the old content or the new."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write the file whole or not at all: a reader sees the old content or the new."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft for the block to write, which replaces the file in the end: a reader sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(
        f".{path.name[-50:]}.{os.getpid()}"
    )  # the whole name may be as long as names can be
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path, *suffixes: str) -> str:
    """Sixteen hex digits of the names and contents of the files below a folder that end so, but no unit tests."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.suffix in suffixes and place.parts[0] not in {"target", "unit_tests"}:
            digest.update(f"{place}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def hash_text(text: str, salt: str) -> str:
    """A personal text as the tables keep it: the same 32 hex digits as by dbt's macro of this name."""
    return hashlib.sha256(f"{salt}{text}".encode()).hexdigest()[:32]


def quoted(text: object) -> str:
    """A text as it stands between single quotes in SQL, where no parameter may."""
    return str(text).replace("'", "''")


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
