"""The page of all tenants, as a file that opens offline and on the server."""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from jollyboat.champions import champion, policy
from jollyboat.pages.page import FORMS, render
from jollyboat.pages.plot import Axis
from jollyboat.serving import fleet
from jollyboat.serving.fleet import STATUSES, Tenant
from jollyboat.store import Store, UserError, person, project_settings, words_of, write_text
from jollyboat.store.settings import Settings

BINS = 20
ACTIONS = {
    "rollback": "goes back to the model before",
    "pin": "lets the shared model answer it from now on",
    "pause": "keeps the model that answers it now",
    "resume": "ends a pin or a pause",
}


def write_page(store: Store, title: str) -> None:
    """Write the page below data/reports; nothing without a snapshot.

    A full disk is for the command to report that filled it.
    """
    settings = project_settings()
    with suppress(OSError):
        for one in store.of_every_question():
            with suppress(UserError):  # no snapshot yet, or a question without data
                about = settings.of(one.question)
                html = page(one, about, title, to_data=_to_data(one), is_running=False)
                write_text(fleet.page_of(one), html)


def page(store: Store, settings: Settings, title: str, **context: Any) -> str:
    """The page as HTML; `is_running` is whether a server shows it, `to_data` the way to data/."""
    from jollyboat.snapshots import snapshot

    tenants = fleet.gather(store, settings)
    counts = Counter(one.status for one in tenants)
    words = words_of(store)
    context = {"message": ""} | context
    return render(
        "tenants.html",
        title=title,
        about=words,
        nonce=secrets.token_urlsafe(12),
        tenants=[_with_card(store, words.home, one) for one in tenants],
        statuses=[(name, meaning, counts[name]) for name, meaning in STATUSES.items()],
        order={name: place for place, name in enumerate(STATUSES)},
        own_count=sum(one.model == "own" for one in tenants),
        histograms=_histograms(tenants),
        actions=ACTIONS,
        snapshot=snapshot.latest_id(store),
        **context,
    )


def change(store: Store, tenant: str, action: str, why: str, settings: Settings) -> str:
    """Do what the page's form says; the result as a sentence. UserError where that is wrong."""
    fleet.find(fleet.gather(store, settings), tenant)
    who = {"by": person(), "why": why or "decided on the page"}
    actions: dict[str, Callable] = {
        "rollback": lambda: champion.rollback(store, tenant, **who).sentence,
        "pin": lambda: policy.pin(store, tenant, **who).sentence,
        "pause": lambda: f"{policy.pause(store, tenant, **who).version} answers {tenant} for now.",
        "resume": lambda: policy.resume(store, tenant, **who) or f"{tenant} is resumed.",
    }
    if action not in actions:
        raise UserError(f"A tenant can be changed by {', '.join(actions)}, not {action!r:.40}.")
    return actions[action]()


def _to_data(store: Store) -> str:
    return "../" if not store.question else "../../../"


def _with_card(store: Store, home: str, one: Tenant) -> dict[str, Any]:
    """The tenant's row with the way from data/ to the card of its own model."""
    row = {name: getattr(one, name) for name in Tenant.__dataclass_fields__}
    row |= {"needs_attention": one.needs_attention, "card": ""}
    if one.model == "own" and (store.bundle(one.name, one.version) / "card.html").exists():
        row["card"] = f"{home}models/{one.name}/{one.version}/card.html"
    return row


def _histograms(tenants: Sequence[Tenant]) -> list[dict[str, Any]]:
    """The distribution of each figure over the tenants, in bins of equal width."""
    figures = {
        "Sessions in seven days": ([one.week_count for one in tenants], FORMS["number"]),
        "Change from the week before": (
            [one.change and one.change - 1 for one in tenants],
            lambda value: f"{100 * value:+.0f} %",
        ),
        "Label rate": ([one.label_rate for one in tenants], FORMS["percent"]),
        "Live quality": ([one.quality.get("value") for one in tenants], FORMS["decimal"]),
    }
    return [_histogram(name, *figure) for name, figure in figures.items()]


def _histogram(name: str, values: Sequence[float | None], form: Callable) -> dict[str, Any]:
    """Bars of equal width; none where all figures are the same."""
    figures = np.array([value for value in values if value is not None], dtype=float)
    about = {"name": name, "count": len(figures), "form": form, "bars": []}
    if not len(figures):
        return about
    about["median"] = float(np.median(figures))
    low, high = figures.min(), np.quantile(figures, 0.99, method="higher")
    if high > low:
        counts, edges = np.histogram(np.minimum(figures, high), BINS)  # a far value is in the last
        half = (edges[1] - edges[0]) / 2
        about["x"] = Axis(low, high, [low, high])
        about["range_of"] = lambda middle: f"{form(middle - half)} to {form(middle + half)}"
        about["bars"] = [
            {"low": edge, "middle": edge + half, "count": int(count)}
            for edge, count in zip(edges[:-1], counts, strict=True)
            if count
        ]
    return about
