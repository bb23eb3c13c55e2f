"""A folder that serves by itself: assembled whole or not at all, named by its content, verified before it is used."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jollyboat.store import Store, hash_file, read_json
from jollyboat.store.errors import UserError
from jollyboat.training.libraries import installed_libraries, licences

SHARED = "shared"  # the owner of the model that all tenants share
TENANT_ID = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
REASSEMBLE = "run `make deploy` to assemble it again"


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of: the model's folder, the texts beside it, and where it all came from."""

    candidate: str
    model: Path
    feature_sql: str
    schema: Mapping
    lookups: Mapping[str, Mapping[str, str]]
    sample: Mapping
    card: str
    threshold: float
    run: str
    snapshot: str
    code: str
    metrics: Mapping


class Bundle:
    """A bundle that was found whole: its folder, its manifest, and what stands in its files."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest
        self.owner, self.version = manifest["owner"], manifest["version"]
        self.candidate, self.threshold = manifest["candidate"], manifest["threshold"]
        self.model, self.card = folder / "model", folder / "card.html"
        self.feature_sql = (folder / "features.sql").read_text(encoding="utf-8")
        self.schema, self.lookups, self.sample = (
            read_json(folder / f"{name}.json") for name in ("schema", "lookups", "sample")
        )


def assemble(parts: Parts, store: Store, owner: str = "shared") -> Bundle:
    """Write models/<owner>/<version>/ in one rename; the same parts give the same version, left alone where whole."""
    home = store.models / refuse_unsafe_owner(owner)
    home.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home))
    try:
        manifest = _write_draft(parts, draft, owner)
        target = store.bundle(owner, manifest["version"])
        _put_in_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return open_bundle(target)


def open_bundle(folder: Path) -> Bundle:
    """The bundle, if every file is there and unchanged, none was added, and its libraries are those installed."""
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(
            f"There is no bundle at {folder} (its manifest.json is missing or empty); {REASSEMBLE}."
        )
    _refuse_other_files(folder, manifest["files"])
    if _version_of(manifest) != manifest.get("version"):
        raise UserError(
            f"manifest.json of the bundle at {folder} was changed since it was made; {REASSEMBLE}."
        )
    _refuse_other_libraries(folder, manifest["libraries"])
    return Bundle(folder, manifest)


def refuse_unsafe_owner(owner: str) -> str:
    """The owner itself, if it can be a folder's name."""
    if not re.fullmatch(TENANT_ID, owner):
        raise UserError(
            f"{owner!r} cannot own a model: 64 letters, digits, `_`, `.` or `-` will do, no sign at the start."
        )
    return owner


def _write_draft(parts: Parts, draft: Path, owner: str) -> dict:
    draft.chmod(0o755)
    if not parts.model.is_dir():
        raise UserError(
            f"There is no saved model at {parts.model}; run `make train`, then `make deploy`."
        )
    shutil.copytree(parts.model, draft / "model")
    texts = {
        "features.sql": parts.feature_sql,
        "schema.json": _json(parts.schema),
        "lookups.json": _json(parts.lookups),
        "sample.json": _json(parts.sample),
        "card.html": parts.card,
        "licences.json": _json(licences()),
    }
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")
    manifest = {
        "owner": owner,
        "run": parts.run,
        "snapshot": parts.snapshot,
        "candidate": parts.candidate,
        "threshold": parts.threshold,
        "code": parts.code,
        "metrics": parts.metrics,
        "libraries": installed_libraries(),
        "files": {name: hash_file(draft / name) for name in _files_below(draft)},
    }
    manifest = json.loads(_json(manifest))  # as it will be read, so that its version can be checked
    manifest = {"version": _version_of(manifest), **manifest}
    (draft / "manifest.json").write_text(_json(manifest), encoding="utf-8")
    return manifest


def _put_in_place(draft: Path, target: Path) -> None:
    """Rename the draft to its place, unless the same bundle stands there whole; a broken one makes way."""
    for path in [*draft.rglob("*"), draft]:
        _sync(path)
    if target.exists():
        try:
            open_bundle(target)
            return
        except UserError:
            target.replace(draft.with_name(f".broken-{draft.name}"))
    try:
        draft.rename(target)
        _sync(target.parent)
    except OSError:
        open_bundle(target)  # Somebody else put the same bundle there meanwhile: whole is whole.
    shutil.rmtree(draft.with_name(f".broken-{draft.name}"), ignore_errors=True)


def _version_of(manifest: Mapping) -> str:
    """Twelve hex digits of whatever decides what the bundle answers or says of itself."""
    content = {key: value for key, value in manifest.items() if key != "version"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _refuse_other_files(folder: Path, expected: Mapping[str, str]) -> None:
    found = set(_files_below(folder)) - {"manifest.json"}
    if missing := sorted(set(expected) - found):
        raise UserError(f"The bundle at {folder} is missing the file {missing[0]}; {REASSEMBLE}.")
    if added := sorted(found - set(expected)):
        raise UserError(
            f"The bundle at {folder} holds {added[0]}, which is not in its manifest; delete it or {REASSEMBLE}."
        )
    for name, digest in sorted(expected.items()):
        if hash_file(folder / name) != digest:
            raise UserError(
                f"The file {name} of the bundle at {folder} was changed since it was made; {REASSEMBLE}."
            )


def _refuse_other_libraries(folder: Path, expected: Mapping[str, str]) -> None:
    installed = installed_libraries()
    for name, number in sorted(expected.items()):
        if installed.get(name) != number:
            here = installed.get(name, "not installed")
            raise UserError(
                f"manifest.json of the bundle at {folder} asks for {name} {number}, and here it is {here}; "
                f"run `make setup` for the pinned versions, or {REASSEMBLE} with these."
            )


def _files_below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
