"""The overview as a file: what exists, with links to every page, without a server."""

from contextlib import suppress

from jollyboat.pages import page
from jollyboat.serving.project_state import read_state
from jollyboat.store import Store


def write_overview(store: Store, title: str) -> None:
    """Write data/index.html, the start page of the server as of now.

    A full disk is for the command to report that filled it: its own work is done or refused.
    """
    with suppress(OSError):
        _write(store, title)


def _write(store: Store, title: str) -> None:
    state = read_state(store)
    troubles = list(state.pop("troubles").values())
    has_champion = bool(state["champions"])
    server = {
        "is_running": False,
        "is_serving": has_champion,
        "refused": [],
        "log_trouble": None,
        "troubles": troubles,
        "is_new": not (has_champion or troubles),
    }
    page.write(
        store, store.overview, "start.html", title=title, server=server, pending=None, **state
    )
