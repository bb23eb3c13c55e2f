"""A bundle: a folder that serves by itself, named by its content and verified before use."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jollyboat.store import SHARED, TENANT_ID, Store, UserError, hash_file, read_json
from jollyboat.training.libraries import installed_libraries, licences

SAMPLE_TENANT = "sample"  # of the request that a bundle was tried with
NO_OUTCOME = "false"  # the condition that no event fulfils
REASSEMBLE = "run `make deploy` to assemble it again"


@dataclass(frozen=True)
class Parts:
    """The content of a bundle: the model's folder, the files beside it, and their origin.

    `first_point` is the fewest events that the model has learned from, `outcome` the condition by
    which an event is an outcome, `personal_fields` the keys of the payload with hashed values.
    `question` is the definition of another question than the first, with its name. `vocabulary` has
    what training has: `event_types`, `tenants`, and the `columns` that nearly all events fill.
    """

    candidate: str
    model: Path
    feature_sql: str
    schema: Mapping
    lookups: Mapping[str, Mapping[str, str]]
    sample: Mapping
    card: str
    threshold: float | None  # None of a ranking
    run: str
    snapshot: str
    code: str
    metrics: Mapping
    first_point: int = 1
    outcome: str = NO_OUTCOME
    personal_fields: Sequence[str] = ()
    question: Mapping = field(default_factory=dict)
    vocabulary: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Bundle:
    """A verified bundle: its folder, its manifest and the content of its files."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest
        self.owner, self.version = manifest["owner"], manifest["version"]
        self.candidate, self.threshold = manifest["candidate"], manifest["threshold"]
        # A bundle of an older version has none: it answers every session.
        self.first_point = manifest.get("first_point", 1)
        self.outcome = manifest.get("outcome", NO_OUTCOME)
        self.personal_fields = manifest.get("personal_fields", [])
        self.question = manifest.get("question", {})
        vocabulary = manifest.get("vocabulary", {})
        self.vocabulary = {name: frozenset(values) for name, values in vocabulary.items()}
        self.is_ranking = "item" in self.question
        self.model, self.card = folder / "model", folder / "card.html"
        self.feature_sql = (folder / "features.sql").read_text(encoding="utf-8")
        self.schema = read_json(folder / "schema.json")
        self.lookups = read_json(folder / "lookups.json")
        self.sample = read_json(folder / "sample.json")


def assemble(parts: Parts, store: Store, owner: str = SHARED) -> Bundle:
    """Write models/<owner>/<version>/ in one rename. The same parts give the same version."""
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
    """The bundle, if its files and manifest are unchanged and its libraries are installed."""
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(
            f"There is no bundle at {folder}, because it has no valid manifest.json: {REASSEMBLE}."
        )
    _refuse_other_files(folder, manifest)
    if _version_of(manifest) != manifest.get("version"):
        raise UserError(f"manifest.json of the bundle at {folder} was changed: {REASSEMBLE}.")
    _refuse_other_libraries(folder, manifest["libraries"])
    return Bundle(folder, manifest)


def refuse_unsafe_owner(owner: str) -> str:
    """The owner itself; UserError if it cannot be the name of a folder."""
    if not re.fullmatch(TENANT_ID, owner):
        raise UserError(
            f"{owner!r} cannot own a model: use up to 64 letters, digits, `_`, `.` or `-`, and "
            "begin with a letter or a digit."
        )
    return owner


def _write_draft(parts: Parts, draft: Path, owner: str) -> dict:
    draft.chmod(0o755)
    if not parts.model.is_dir():
        raise UserError(
            f"There is no saved model at {parts.model}: run `make train`, then `make deploy`."
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
        "first_point": parts.first_point,
        "outcome": parts.outcome,
        "personal_fields": parts.personal_fields,
        "vocabulary": parts.vocabulary,
        **({"question": parts.question} if parts.question else {}),
        "code": parts.code,
        "metrics": parts.metrics,
        "libraries": installed_libraries(),
        "files": {name: hash_file(draft / name) for name in _files_below(draft)},
    }
    manifest = json.loads(_json(manifest))  # as a reader gets it, so that the version is the same
    manifest = {"version": _version_of(manifest), **manifest}
    (draft / "manifest.json").write_text(_json(manifest), encoding="utf-8")
    return manifest


def _put_in_place(draft: Path, target: Path) -> None:
    """Rename the draft to its place. Keep a whole bundle that is there; replace a broken one."""
    for path in [*draft.rglob("*"), draft]:
        _sync(path)
    broken = draft.with_name(f".broken-{draft.name}")
    if target.exists():
        try:
            open_bundle(target)
            return
        except UserError:
            target.replace(broken)
    try:
        draft.rename(target)
        _sync(target.parent)
    except OSError:
        open_bundle(target)  # another process has put the same bundle there
    shutil.rmtree(broken, ignore_errors=True)


def _version_of(manifest: Mapping) -> str:
    """Twelve hex digits over everything in the manifest but the version."""
    content = {key: value for key, value in manifest.items() if key != "version"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _refuse_other_files(folder: Path, manifest: Mapping) -> None:
    expected, present = manifest["files"], set(_files_below(folder)) - {"manifest.json"}
    again = REASSEMBLE
    if not manifest.get("question"):
        command = f".venv/bin/python flows/deploy.py run --candidate {manifest.get('run')}"
        again += f", or `{command}` if its run is not the latest"
    if missing := sorted(set(expected) - present):
        raise UserError(f"The bundle at {folder} is missing the file {missing[0]}: {again}.")
    if added := sorted(present - set(expected)):
        raise UserError(
            f"The bundle at {folder} holds {added[0]}, which is not in its manifest: delete it or "
            f"{REASSEMBLE}."
        )
    for name, digest in sorted(expected.items()):
        if hash_file(folder / name) != digest:
            raise UserError(f"{name} of the bundle at {folder} was changed: {again}.")


def _refuse_other_libraries(folder: Path, expected: Mapping[str, str]) -> None:
    installed = installed_libraries()
    for name, version in sorted(expected.items()):
        if installed.get(name) != version:
            raise UserError(
                f"manifest.json of the bundle at {folder} asks for {name} {version}, but here it "
                f"is {installed.get(name, 'not installed')}: run `make setup` for the pinned "
                f"versions, or {REASSEMBLE} with these."
            )


def _files_below(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
