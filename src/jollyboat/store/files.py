"""How files are read, replaced as a whole and hashed."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jollyboat.store.errors import UserError


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
