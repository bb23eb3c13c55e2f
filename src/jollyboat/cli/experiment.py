"""Commands about an experiment: a challenger serves a share of the visitors beside the champion."""

import click

from jollyboat.store import default_store, project_settings


@click.group(epilog="Example: jollyboat experiment start --share 0.2")
def experiment() -> None:
    """Start, read and end an experiment.

    A challenger serves a share of the visitors beside the champion."""


@experiment.command(epilog="Example: jollyboat experiment start --run 5d41402abc4b --share 0.2")
@click.option("--run", default="", help="The training run; the latest by default.")
@click.option("--share", type=float, help="The challenger's share of the visitors.")
def start(run: str, share: float | None) -> None:
    """Give a run's best candidate a share of the visitors.

    The defaults are in project.toml, [experiment]."""
    from jollyboat.serving import experiment

    settings = project_settings()
    share = settings.experiment.share if share is None else share
    click.echo(f"experiment: {experiment.start(default_store(), run, share, settings)}")


@experiment.command(epilog="Example: jollyboat experiment read")
def read() -> None:
    """Compare champion and challenger; the figures may be read daily."""
    from jollyboat.serving import experiment

    store = default_store()
    click.echo(experiment.format_summary(experiment.readout(store, project_settings()), store))


@experiment.command(epilog="Example: jollyboat experiment promote --force 'the shop moves'")
@click.option(
    "--force", default="", metavar="WHY", help="Promote one that is not better; the reason."
)
def promote(force: str) -> None:
    """Make the challenger champion and end the experiment.

    It must be significantly better, or --force gives a reason."""
    from jollyboat.serving import experiment

    click.echo(f"promote: {experiment.promote(default_store(), project_settings(), force)}")


@experiment.command(epilog="Example: jollyboat experiment stop")
def stop() -> None:
    """End the experiment; the champion serves all visitors."""
    from jollyboat.serving import experiment

    click.echo(f"stop: {experiment.stop(default_store())}")
