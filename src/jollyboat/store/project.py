"""Where the user's project is."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jollyboat.store.errors import UserError

if TYPE_CHECKING:  # pydantic is imported by who needs it
    from jollyboat.store.settings import Settings

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


PROJECT = find_project()


def project_settings() -> "Settings":
    """What project.toml says, for what is started without a flow; UserError where something in it is wrong."""
    from jollyboat.store import settings

    path = PROJECT / "project.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    return settings.parse(text)
