"""Where the user's project is, and its settings."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jollyboat.store.errors import UserError

if TYPE_CHECKING:  # importing pydantic takes time, and few callers need it
    from jollyboat.store.settings import Settings

LIBRARY = Path(__file__).resolve().parent.parent  # src/jollyboat, or where it is installed


def find_project() -> Path:
    """The folder of the project that this process works for.

    The environment variable JOLLYBOAT_PROJECT names it. Otherwise it is the project of the script
    that was started (a flow, for example), or the first project from the working directory upward.
    Where there is none, it is the working directory.
    """
    named = os.environ.get("JOLLYBOAT_PROJECT")
    if named:
        return Path(named).resolve()
    script = getattr(sys.modules["__main__"], "__file__", None)
    script_folders = list(Path(script).resolve().parents)[:2] if script else []
    here = Path.cwd().resolve()
    folders = [*script_folders, here, *here.parents]
    return next((folder for folder in folders if is_project(folder)), here)


def is_project(folder: Path) -> bool:
    """Whether the folder contains a project. The library's own folder has SQL, but no settings."""
    return all((folder / name).is_file() for name in ("project.toml", "dbt/dbt_project.yml"))


PROJECT = find_project()


def project_settings() -> "Settings":
    """The settings in project.toml, for code outside a flow; UserError where one is wrong."""
    from jollyboat.store import settings

    path = PROJECT / "project.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    return settings.parse(text)
