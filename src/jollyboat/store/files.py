"""Files are replaced as a whole: a reader sees the old content or the new."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import UnionType

from jollyboat.store.errors import UserError

# The command that writes the JSON files below a folder of data/.
WRITERS = {
    "dbt": "make data",
    "landed": "make data",
    "models": "make deploy",
    "monitor": "make monitor",
    "runs": "make train",
    "scores": "make score",
    "snapshots": "make data",
}


# A type, [a kind] for a list of it, or an object's kinds by key; the key `str` is for all values.
Kind = type | UnionType | list | dict


def read_json(path: Path, default: object = None, **keys: Kind) -> object:
    """The file's content, or `default` where there is no file; UserError if it is something else.

    The content is a list if `default` is one, else an object that has these keys of these kinds.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check(content, list if isinstance(default, list) else keys, "content")
    except FileNotFoundError:
        return default
    except ValueError as error:
        written_by = [WRITERS[part] for part in path.parent.parts if part in WRITERS]
        command = f"`{written_by[-1]}`" if written_by else "the command that writes it again"
        raise UserError(
            f"{path} is not readable JSON ({error}). Delete it, then run {command}."
        ) from error
    return content


def _check(value: object, kind: Kind, name: str) -> None:
    """Raise ValueError where the value, or a part of it, is not of its kind."""
    if not isinstance(value, type(kind) if isinstance(kind, list | dict) else kind):
        raise ValueError(f"its {name} is {value!r:.40}")
    if isinstance(kind, list):
        for each in value:
            _check(each, kind[0], f"entry in {name}")
    elif isinstance(kind, dict):
        for key, inner in kind.items():
            parts = value.items() if key is str else [(key, value.get(key))]
            for part, each in parts:
                _check(each, inner, part)


def write_json(path: Path, value: object) -> None:
    """Replace the file with the value as JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace the file with the text, which is on disk when this returns."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft for the block to write; it replaces the file when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The draft's name is longer than the file's, which may be as long as the file system allows.
    draft = path.with_name(f".{path.name[-50:]}.{os.getpid()}")
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
    """Sixteen hex digits of the names and contents of the files with these suffixes.

    dbt's target folder and unit tests do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix in suffixes and name.parts[0] not in {"target", "unit_tests"}:
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
