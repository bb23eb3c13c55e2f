"""The overview as a file: what exists, with links to every page, without a server."""

from contextlib import suppress

from jollyboat.pages import page
from jollyboat.serving import briefing, fleet_page
from jollyboat.serving.project_state import UNREADABLE, read_state
from jollyboat.store import Store
from jollyboat.training import compare


def write_overview(store: Store, project: str) -> None:
    """Write data/index.html, the start page of the server as of now, and the page of all tenants.

    A full disk is for the command to report that filled it: its own work is done or refused.
    """
    fleet_page.write_page(store, f"Tenants · {project}")
    with suppress(OSError):
        for one in store.of_every_question():
            with suppress(*UNREADABLE):  # the overview names the file
                compare.write_table(one, f"Training runs · {project}")
        _write(store, f"Overview · {project}")


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
    context = state | briefing.gather(store, state)
    page.write(
        store, store.overview, "start.html", title=title, server=server, pending=None, **context
    )
