"""Commands about a cluster: what it runs is made here, and nothing is sent to it."""

from pathlib import Path

import click

from jollyboat.store import PROJECT, project_settings


@click.group(epilog="Example: jollyboat cluster export")
def cluster() -> None:
    """Take the flows and the server to a cluster."""


@cluster.command(epilog="Example: jollyboat cluster export --image registry.example.com/shop:42")
@click.option("--image", help="The containers' image; [cluster] image by default.")
@click.option("--argo", "scheduler", flag_value="argo", default="argo", help="For Argo Workflows.")
@click.option("--airflow", "scheduler", flag_value="airflow", help="For Airflow.")
@click.option(
    "--step-functions", "scheduler", flag_value="step-functions", help="For AWS Step Functions."
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    default=PROJECT / "cluster",
    help="The folder; cluster/ by default.",
)
def export(image: str | None, scheduler: str, folder: Path) -> None:
    """Write a file for each flow and one for the server.

    The flows' code packages go to the bucket. See `jollyboat docs run-on-a-cluster`."""
    from jollyboat.cluster.export import export

    settings = project_settings()
    if image:
        settings = settings.model_copy(
            update={"cluster": settings.cluster.model_copy(update={"image": image})}
        )
    paths = export(settings, scheduler, folder)
    for path in paths:
        click.echo(f"file: {path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path}")
    click.echo(f"export: {len(paths)} files for {scheduler}")
