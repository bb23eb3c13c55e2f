"""Commands about training runs, model versions and the champion."""

import click

from jollyboat.cli.options import question_option
from jollyboat.store import Store, default_store, person, project_settings


@click.group(invoke_without_command=True, epilog="Example: jollyboat runs")
@question_option
@click.pass_context
def runs(context: click.Context, store: Store) -> None:
    """List the finished training runs, newest first, or tag one."""
    if context.invoked_subcommand is None:
        from jollyboat.training import compare

        click.echo(compare.format_runs(store))


@runs.command(
    epilog="Example: jollyboat runs tag 5d41402abc4b wide --note 'with six more features'"
)
@click.argument("run_id", metavar="RUN")
@click.argument("name", metavar="TAG")
@click.option("--note", help="A sentence about the run; it replaces the one before.")
@click.option("--remove", is_flag=True, help="Take the tag away.")
@question_option
def tag(run_id: str, name: str, note: str | None, remove: bool, store: Store) -> None:
    """Give a run a tag and a note, for the table of all runs."""
    from jollyboat.serving.overview import write_overview
    from jollyboat.training import compare, run

    tags = run.open(run_id, store).tag(name, note, remove)
    write_overview(default_store(), project_settings().project.name)
    click.echo(f"run {run_id}: {compare.format_tags(tags) or 'no tag'}")


@click.command(epilog="Example: jollyboat compare 5d41402abc4b 7d793037a076")
@click.argument("run_ids", metavar="A B [C D E]", nargs=-1)
@question_option
def compare(run_ids: tuple[str, ...], store: Store) -> None:
    """Compare two to five training runs.

    Settings, data, features, figures and predictions; printed, and as a page."""
    from jollyboat.training import compare

    if not 2 <= len(run_ids) <= 5:
        raise click.UsageError("Name two to five runs: jollyboat compare A B.")
    comparisons, page = compare.compare(store, run_ids)
    click.echo("\n\n".join(map(compare.format_comparison, comparisons)) + f"\npage: {page}")


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

    change = champion.rollback(store, owner, to, by=person(), why=why)
    click.echo(f"rollback: {change.sentence}")
    if change.changed and change.previous != champion.SHARED:
        click.echo(
            f"`make deploy` refuses {change.previous} from now on, unless FORCE has a reason."
        )
