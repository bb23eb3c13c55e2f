"""The ladder of candidates: each a module with fit, predict_proba, explain, describe, save and load.

Your own candidate is a file in this folder and its name under [train] candidates in project.toml.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from types import ModuleType

from ml.errors import CannotLearn

VERBS = ("fit", "predict_proba", "explain", "describe", "save", "load")


class UnknownCandidate(CannotLearn):
    """A sentence that says which candidate is missing, or lacks a verb."""


def load_module(name: str) -> ModuleType:
    """The candidate's module, imported now (heavy libraries come with it). Raises `UnknownCandidate`."""
    path = f"{__name__}.{name}"
    if not name.isidentifier() or (path not in sys.modules and importlib.util.find_spec(path) is None):
        known = ", ".join(sorted(module.name for module in pkgutil.iter_modules(__path__)))
        raise UnknownCandidate(
            f"There is no candidate {name!r}: add ml/candidates/{name}.py, or use one of {known} "
            "under [train] candidates in project.toml."
        )
    module = importlib.import_module(path)
    lacking = [verb for verb in VERBS if not callable(getattr(module, verb, None))]
    if lacking:
        raise UnknownCandidate(f"The candidate {name!r} lacks {', '.join(lacking)}: add it to ml/candidates/{name}.py.")
    return module
