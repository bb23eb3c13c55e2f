"""The ladder of candidates: each a module with fit, predict_proba, explain, describe, save and load.

Your own candidate is a file in this folder and its name under [train] candidates in project.toml.
"""

import importlib
import pkgutil
from types import ModuleType

from jollyboat.store.errors import CannotLearn

VERBS = ("fit", "predict_proba", "explain", "describe", "save", "load")


def load_module(name: str) -> ModuleType:
    """The candidate's module, imported now (heavy libraries come with it). Raises `CannotLearn`."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise CannotLearn(
            f"There is no candidate {name!r}: add ml/candidates/{name}.py, or use one of {', '.join(known)} "
            "under [train] candidates in project.toml."
        )
    module = importlib.import_module(f"{__name__}.{name}")
    lacking = [verb for verb in VERBS if not callable(getattr(module, verb, None))]
    if lacking:
        raise CannotLearn(f"The candidate {name!r} lacks {', '.join(lacking)}: add it to ml/candidates/{name}.py.")
    return module
