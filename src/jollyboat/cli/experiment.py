"""Commands about an experiment: a challenger serves a share of the visitors beside the champion."""

import click

from jollyboat.cli.options import question_option
from jollyboat.store import Store, project_settings


@click.group(epilog="Example: jollyboat experiment start --share 0.2")
def experiment() -> None:
    """Start, read and end an experiment.

    A challenger serves a share of the visitors beside the champion."""


@experiment.command(epilog="Example: jollyboat experiment start --run 5d41402abc4b --share 0.2")
@click.option("--run", default="", help="The training run; the latest by default.")
@click.option("--share", type=float, help="The challenger's share of the visitors.")
@question_option
def start(run: str, share: float | None, store: Store) -> None:
    """Give a run's best candidate a share of the visitors.

    The defaults are in project.toml, [experiment]."""
    from jollyboat.serving import experiment

    settings = project_settings().of(store.question)
    share = settings.experiment.share if share is None else share
    click.echo(f"experiment: {experiment.start(store, run, share, settings)}")


@experiment.command(epilog="Example: jollyboat experiment read")
@question_option
def read(store: Store) -> None:
    """Compare champion and challenger; the figures may be read daily."""
    from jollyboat.serving import experiment

    readout = experiment.readout(store, project_settings().of(store.question))
    click.echo(experiment.format_summary(readout, store))


@experiment.command(epilog="Example: jollyboat experiment promote --force 'the shop moves'")
@click.option(
    "--force", default="", metavar="WHY", help="Promote one that is not better; the reason."
)
@question_option
def promote(force: str, store: Store) -> None:
    """Make the challenger champion and end the experiment.

    It must be significantly better, or --force gives a reason."""
    from jollyboat.serving import experiment

    click.echo(
        f"promote: {experiment.promote(store, project_settings().of(store.question), force)}"
    )


@experiment.command(epilog="Example: jollyboat experiment stop")
@question_option
def stop(store: Store) -> None:
    """End the experiment; the champion serves all visitors."""
    from jollyboat.serving import experiment

    click.echo(f"stop: {experiment.stop(store)}")
