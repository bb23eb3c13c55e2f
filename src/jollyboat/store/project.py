"""Where the user's project is."""

import os
import sys
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent.parent  # src/jollyboat, or where it is installed
SIGN = Path("dbt") / "dbt_project.yml"


def find_project() -> Path:
    """The folder of the project that this process works for.

    The environment variable JOLLYBOAT_PROJECT names it. Otherwise it is the project of the script
    that was started (a flow, say), or the first folder from the working directory upward that
    holds a project. Where there is none, it is the working directory.
    """
    if named := os.environ.get("JOLLYBOAT_PROJECT"):
        return Path(named).resolve()
    script = getattr(sys.modules["__main__"], "__file__", None)
    started = list(Path(script).resolve().parents)[:2] if script else []
    here = Path.cwd().resolve()
    places = [*started, here, *here.parents]
    return next((place for place in places if is_project(place)), here)


def is_project(folder: Path) -> bool:
    """Whether the folder holds a project."""
    return (folder / SIGN).is_file()
