"""Options that several commands have."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from jollyboat.store import Store, UserError, default_store, name_question, project_settings


def question_option(command: Callable) -> Callable:
    """Give a command `store`: this project's data with the files of the question that is named."""

    @wraps(command)
    def run(*arguments: Any, store: Store, **options: Any) -> None:
        try:
            command(*arguments, store=store, **options)
        except UserError as refusal:
            raise UserError(name_question(str(refusal), store.question)) from None

    return click.option(
        "--question",
        "store",
        callback=_store_of,
        help="A question of project.toml; the first by default.",
    )(run)


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
