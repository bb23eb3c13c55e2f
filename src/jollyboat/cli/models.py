"""Commands about training runs, model versions and the champion."""

import click

from jollyboat.cli.question import question_option
from jollyboat.store import Store


@click.command(epilog="Example: jollyboat runs")
@question_option
def runs(store: Store) -> None:
    """List the finished training runs, newest first."""
    from jollyboat.training import compare

    click.echo(compare.format_runs(store))


@click.command(epilog="Example: jollyboat compare 5d41402abc4b 7d793037a076")
@click.argument("run_a", metavar="A")
@click.argument("run_b", metavar="B")
@question_option
def compare(run_a: str, run_b: str, store: Store) -> None:
    """Compare two training runs.

    Settings, data, features, figures and predictions; printed, and as a page."""
    from jollyboat.training import compare

    comparison, page = compare.compare(store, run_a, run_b)
    click.echo(f"{compare.format_comparison(comparison)}\npage: {page}")


@click.command(epilog="Example: jollyboat models")
@question_option
def models(store: Store) -> None:
    """List the versions of models, with their figures and state."""
    from jollyboat.champions import champion

    click.echo(champion.format_versions(store))


@click.command(epilog="Example: jollyboat rollback --to 9c1b02aa54d1 --why 'too many alarms'")
@click.option("--to", metavar="VERSION", help="The champion before the present one by default.")
@click.option("--owner", default="shared", show_default=True, help="A tenant, or shared for all.")
@click.option("--why", default="rolled back by hand", help="Kept in the champion's history.")
@question_option
def rollback(to: str | None, owner: str, why: str, store: Store) -> None:
    """Go back to an earlier champion.

    It takes effect at once, on every server, and needs no training."""
    from jollyboat.champions import champion

    change = champion.rollback(store, owner, to, by=champion.person(), why=why)
    click.echo(f"rollback: {change.sentence}")
