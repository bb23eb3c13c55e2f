"""A model in a folder, without pickle: its classifier in one file, and model.json beside it.

An XGBClassifier is saved in XGBoost's own format (model.ubj), every other classifier by skops
(model.skops). model.json names the format and, for skops, the types that may be loaded.
The same model gives the same bytes.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np

from jollyboat.training.estimators import Model, kind, read_candidates
from jollyboat.training.explanation import is_estimate
from jollyboat.training.schema import FeatureSchema

# In an archive's schema.json: a memory address, or a file that is named by one or at random. Inside
# values the quotes would be escaped.
RANDOM_NAME = re.compile(r'("__id__": |"file": ")([\w-]+)')


def save(model: Model, folder: Path) -> None:
    """Write the model's files into the folder."""
    about = {"schema": model.schema.to_dict(), "format": "xgboost"}
    if kind(model.classifier) == "xgboost.XGBClassifier":
        model.classifier.save_model(folder / "model.ubj")
    else:
        about |= {"format": "skops", "trusted": _dump(model.classifier, folder / "model.skops")}
    if is_estimate(model):
        rows = model.typical.tolist()
        about["typical"] = [[None if np.isnan(value) else value for value in row] for row in rows]
    text = json.dumps(about, indent=1, allow_nan=False) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> Model:
    """The model that `save` wrote, on one thread: more threads slow a server down.

    Raises UntrustedTypesFoundException before it runs any code of an archive with a type that
    model.json does not name, or with a type of Python itself, such as `os.system`.
    """
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    schema = FeatureSchema.from_dict(about["schema"])
    if about["format"] == "xgboost":
        classifier = _load_xgboost(folder / "model.ubj")
    else:
        classifier = _load_skops(folder / "model.skops", about["trusted"])
    typical = np.array(about["typical"], dtype=float) if "typical" in about else None
    return Model(schema, classifier, typical)


def make_reproducible(archive: Path) -> None:
    """Rewrite skops' archive without memory addresses and times, so that bytes are reproducible."""
    numbers: dict[str, int] = {}

    def rename(match: re.Match) -> str:
        return match[1] + str(numbers.setdefault(match[2], len(numbers)))

    with ZipFile(archive) as written:
        members = {name: written.read(name) for name in written.namelist()}
    text = RANDOM_NAME.sub(rename, members.pop("schema.json").decode())
    paths = {Path(name): content for name, content in members.items()}
    files = {f"{numbers[path.stem]}{path.suffix}": content for path, content in paths.items()}
    with ZipFile(archive, "w") as rewritten:
        for name, content in {"schema.json": text, **dict(sorted(files.items()))}.items():
            rewritten.writestr(ZipInfo(name), content)  # ZipInfo's date is always 1980


def _dump(classifier: Any, archive: Path) -> list[str]:
    """Write the archive; return the types in it that skops does not trust by default."""
    import skops.io

    skops.io.dump(classifier, archive)
    make_reproducible(archive)
    return skops.io.get_untrusted_types(file=archive)


def _load_skops(archive: Path, trusted: list[str]) -> Any:
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    outside = {name for name in trusted if not name.startswith("collections.")}
    if refused := {name for name in outside if name.partition(".")[0] in sys.stdlib_module_names}:
        raise UntrustedTypesFoundException(refused)
    if any(name.startswith("candidates.") for name in trusted):
        read_candidates()  # skops imports a class of the project's own file by this name
    classifier = skops.io.load(archive, trusted=trusted)
    params = classifier.get_params() if hasattr(classifier, "get_params") else {}
    threads = [name for name in params if name.rpartition("__")[2] == "n_jobs"]
    return classifier.set_params(**dict.fromkeys(threads, 1)) if threads else classifier


def _load_xgboost(file: Path) -> Any:
    from xgboost import XGBClassifier

    classifier = XGBClassifier(n_jobs=1)
    classifier.load_model(file)
    classifier.get_booster().set_param({"nthread": 1})
    return classifier
