"""Commands that write files of a project: a source, a candidate."""

from collections.abc import Iterable

import click

from jollyboat import scaffold
from jollyboat.pages.terminal import wrap
from jollyboat.store import PROJECT


@click.group(epilog="Example: jollyboat add source shop --like ga4")
def add() -> None:
    """Write the files of a new source or a new candidate."""


@add.command(epilog="Example: jollyboat add source shop --like segment")
@click.argument("name")
@click.option("--like", "kind", required=True, type=click.Choice(scaffold.source_kinds()))
def source(name: str, kind: str) -> None:
    """Write a source's staging model and name the source.

    --like says which export it reads."""
    _print(scaffold.add_source(name, kind, PROJECT))


@add.command(epilog="Example: jollyboat add candidate trees --like lightgbm")
@click.argument("name")
@click.option("--like", "kind", required=True, type=click.Choice(scaffold.candidate_kinds()))
def candidate(name: str, kind: str) -> None:
    """Write a candidate's function and name the candidate.

    --like says which library it uses."""
    _print(scaffold.add_candidate(name, kind, PROJECT))


def _print(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(wrap(sentence))
