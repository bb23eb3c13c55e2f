"""The option --question of commands about runs, models and experiments."""

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
