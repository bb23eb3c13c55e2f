"""Pages from the templates in `pages/templates`, each a single file that opens offline."""

import base64
import hashlib
import math
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PrefixLoader,
    StrictUndefined,
)
from markupsafe import Markup, escape

from jollyboat.pages import plot
from jollyboat.store import PROJECT, Store, default_store, name_question, words_of, write_text

UNKNOWN = "–"
LONGEST = 80  # characters of a text from the data
BAR = re.compile(r'<nav class="links".*?</nav>\n', re.DOTALL)
PERCENT = re.compile(r"(?<=\d) %(?=\W)")  # stays on the line of its number
COMMAND = re.compile("`([^`]+)`")
LINK = re.compile(r'<a href="(?!#)[^"]*">(.*?)</a>', re.DOTALL)


def render(template: str, to_data: str = "", **context) -> str:
    """A page as HTML; everything that comes from data is escaped.

    `to_data` is the way from the page to data/, such as "../"; without it the page has no bar of
    links to the other pages. `about` has the words of its question, by default the first one's, and
    `has_file` says whether a path in data/ can be linked.
    """
    context = {"about": words_of(default_store()), "has_file": lambda path: False} | context
    html = _environment().get_template(template).render(to_data=to_data, **context)
    return PERCENT.sub("\u00a0%", html)


def write(store: Store, path: Path, template: str, **context) -> str:
    """Write the page to a path below data/, and return it as a card, without links to others."""
    to_data = os.path.relpath(store.root, path.parent) + "/"
    context |= {"about": words_of(store), "has_file": lambda path: (store.root / path).exists()}
    html = name_question(render(template, to_data=to_data, **context), store.question)
    write_text(path, html)
    return without_links(html)


def without_links(html: str) -> str:
    """The page without links to others, which lead nowhere from another folder."""
    return LINK.sub(r"\1", BAR.sub("", html))


def _script_hash(script: str) -> str:
    """The source of this script in a content security policy."""
    digest = hashlib.sha256(str(script).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _mark_commands(sentence: str) -> Markup:
    """The sentence with its `commands` in the type of code."""
    return Markup(COMMAND.sub(r"<code>\1</code>", str(escape(sentence))))


def _percent(value: float) -> str:
    percent = abs(100 * value)
    if percent in (0, 100):
        digits = 0
    elif percent >= 1:
        digits = 1
    else:
        digits = min(1 - math.floor(math.log10(percent)), 4)
    return f"{100 * value:.{digits}f}\u00a0%"


def _day(value) -> str:
    moment = plot.moment_of(value)
    return f"{moment.day} {moment:%b %Y}"


# The formats of figures and texts, as filters and functions of the templates.
FORMS: dict[str, Callable[..., str]] = {
    "number": lambda value: f"{value:,.0f}",  # 12,345
    "decimal": lambda value, digits=3: f"{value:,.{digits}f}",  # 0.329
    "signed": lambda value: f"{value:+.3f}",  # +0.206
    # 1,739 and 15.4
    "figure": lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value or 0:.3g}",
    "times": lambda value: f"{value:.{2 if value < 2 else 1}f}",  # 2.7 times, 1.04 times
    "percent": _percent,  # 8.0 %, 0.033 %
    "share": lambda value: f"{100 * value:.3g}\u00a0%",  # 20 %, as on an axis
    "points": lambda value: f"{100 * value:+.1f}",  # +5.9, of a difference of shares
    "day": _day,  # 1 Jan 2026
    "moment": lambda value: f"{_day(value)}, {plot.moment_of(value):%H:%M}",  # 1 Jan 2026, 02:45
    "words": lambda value: str(value).replace("_", " "),  # tenant id
    "short": lambda value: str(value) if len(str(value)) <= LONGEST else f"{str(value)[:LONGEST]}…",
}


def _dash_if_unknown(form: Callable[..., str]) -> Callable[..., str]:
    return lambda value, *arguments: UNKNOWN if plot.is_unknown(value) else form(value, *arguments)


def _loader(project_templates: Path) -> BaseLoader:
    """The project's template of a page, else the library's, which is also `jollyboat/<name>`."""
    library = FileSystemLoader(Path(__file__).parent / "templates")
    project = FileSystemLoader(project_templates)
    return ChoiceLoader([project, library, PrefixLoader({"jollyboat": library})])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=_loader(PROJECT / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms = {name: _dash_if_unknown(form) for name, form in FORMS.items()}
    environment.filters |= forms
    environment.globals |= forms | {
        "axis": plot.axis,
        "time_axis": plot.time_axis,
        "dated": plot.dated,
        "marks": plot.marks,
        "zip": zip,
        "trace": plot.trace,
    }
    environment.filters["script_hash"] = _script_hash
    environment.filters["commands"] = _mark_commands
    environment.tests["unknown"] = plot.is_unknown
    return environment
