"""Options that several commands have."""

import sys
from collections.abc import Callable

import click

from jollyboat.store import Store, default_store, project_settings


def question_option(command: Callable) -> Callable:
    """Give a command `store`: this project's data with the files of the question that is named."""
    return click.option(
        "--question",
        "store",
        callback=_store_of,
        help="A question of project.toml; the first by default.",
    )(command)


def _store_of(_context: click.Context, _parameter: click.Parameter, name: str | None) -> Store:
    return default_store().of(project_settings().store_name(name) if name else "")


def agree_option(command: Callable) -> Callable:
    """Give a command `agree`: called with what it removes, it asks on a terminal, or raises Abort.

    With --yes, or without a terminal, it asks nothing.
    """
    return click.option("--yes", "agree", is_flag=True, callback=_agree, help="Do not ask.")(
        command
    )


def _agree(_context: click.Context, _parameter: click.Parameter, yes: bool) -> Callable:
    def agree(what: str) -> None:
        if not yes and sys.stdin.isatty():
            click.confirm(f"This removes {what}. Nothing brings them back. Go on?", abort=True)

    return agree
