"""Commands about raw logs and the snapshots made from them."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import click

from jollyboat.cli.options import agree_option
from jollyboat.pages.terminal import format_count
from jollyboat.store import default_store, project_settings


@click.command(epilog="Example: jollyboat simulate --days 33 --drift 31")
@click.option("--seed", type=int, help="The same seed writes the same bytes.")
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), help="The first day.")
@click.option("--days", type=int, help="How many days; more days only add files.")
@click.option("--sessions-per-day", type=int, help="How many sessions on a usual day.")
@click.option(
    "--tenants",
    type=int,
    metavar="N",
    help="How many tenants, of different sizes, kinds and words; three of one kind by default.",
)
@click.option("--drift", type=int, metavar="DAY", help="Ads bring half of the visits from then on.")
@click.option(
    "--broken",
    type=int,
    metavar="DAY",
    help="The second largest tenant's web events cannot be mapped from then on.",
)
@click.option("--raw", type=Path, help="The folder of raw logs; data/raw by default.")
@click.option("--truth", type=Path, help="The true probabilities; data/truth.parquet.")
@click.option("--customers", type=Path, help="The customers' true lapses; not written by default.")
def simulate(
    start: datetime | None,
    raw: Path | None,
    truth: Path | None,
    customers: Path | None,
    **options: int | None,
) -> None:
    """Write simulated shops' raw logs below data/raw.

    The defaults are in project.toml, [simulate].
    With --tenants, a few are large and most are small, and one in eight starts midway.
    Their buyers, languages, currencies and names of events differ."""
    from jollyboat.simulate.simulate import simulate

    began, store, settings = time.monotonic(), default_store(), project_settings().simulate
    size = {
        name: getattr(settings, name, None) if value is None else value
        for name, value in options.items()
    }
    raw = raw or store.raw
    first_day = start.date() if start else settings.start
    truths = {"truth": truth or store.root / "truth.parquet", "customers": customers}
    written = simulate(raw, **truths, start=first_day, **size)
    counts = "nothing to do: all"
    if written["files_written"]:
        counts = "{lines:,} web lines, {orders:,} orders, {sessions:,} sessions of".format(
            **written
        )
    seconds = time.monotonic() - began
    click.echo(f"simulate: {counts} {size['days']} days are in {raw}, {seconds:.1f} s")


@click.command(epilog="Example: jollyboat land && dbt build --project-dir dbt")
@click.option("--accept", is_flag=True, help="Accept the days and files that stopped `make data`.")
@click.option("--tenant", help="With --accept, only the days and files of this tenant.")
def land(accept: bool, tenant: str | None) -> None:
    """Register the new files of data/raw.

    `make data` does it too; a dbt build by hand does not."""
    from jollyboat.landing.remedies import describe
    from jollyboat.warehouse import warehouse

    if tenant and not accept:
        raise click.UsageError("--tenant needs --accept: jollyboat land --accept --tenant NAME.")
    if accept and default_store().warehouse.exists():
        for day in warehouse.accept_days(default_store(), tenant):
            click.echo(f"accepted: {day}")
    landing = warehouse.land(default_store(), accept, tenant)
    for file in landing.unreadable:
        click.echo(f"{'accepted' if file.is_accepted else 'unreadable'}: {describe(file)}")
    click.echo(
        f"land: {format_count(len(landing.files), 'file')}; {len(landing.new):,} new, "
        f"{len(landing.changed):,} changed, {len(landing.removed):,} removed"
    )


@click.command(epilog="Example: jollyboat erase --person ada@example.com")
@click.option("--tenant", help="A whole tenant; with --person, the person of this tenant alone.")
@click.option("--person", help="Any id of an account or a device, or an address in a text.")
@click.option(
    "--linked",
    type=click.Choice(["erase", "keep"]),
    help="Whether records of linked ids go too; without it they are listed.",
)
@agree_option
def erase(
    tenant: str | None, person: str | None, linked: str | None, agree: Callable[[str], None]
) -> None:
    """Remove every record about a tenant or a person.

    Raw files, tables, scores, pages and artifacts lose it. On a terminal the command says what
    will go, and asks. Models that learned from it are named."""
    from jollyboat.erasure import erase

    if not tenant and not person:
        raise click.UsageError("Name a --tenant or a --person.")
    store = default_store()
    report = erase.erase(store, tenant or None, person or None, linked, agree)
    click.echo(erase.format_summary(report, erase.unknown_files(store)))


@click.group(invoke_without_command=True, epilog="Example: jollyboat snapshots prune --keep 5")
@click.pass_context
def snapshots(context: click.Context) -> None:
    """List, show, compare and prune the published snapshots."""
    if context.invoked_subcommand is None:
        context.invoke(list_snapshots)


@snapshots.command("list", epilog="Example: jollyboat snapshots list")
def list_snapshots() -> None:
    """List every snapshot, newest first, with what uses it."""
    from jollyboat.snapshots import summary

    click.echo(summary.format_all(default_store()))


@snapshots.command("show", epilog="Example: jollyboat snapshots show 3f2a91c04b7e")
@click.argument("snapshot_id", metavar="[SNAPSHOT]", default="")
def show_snapshot(snapshot_id: str) -> None:
    """Show what a snapshot holds, the latest by default."""
    from jollyboat.snapshots import snapshot, summary

    click.echo(summary.format_one(snapshot.open(snapshot_id, default_store())))


@snapshots.command("diff", epilog="Example: jollyboat snapshots diff 3f2a91c04b7e 9c1b02aa54d1")
@click.argument("before")
@click.argument("after", metavar="[AFTER]", default="")
def diff_snapshots(before: str, after: str) -> None:
    """Compare two snapshots.

    Rows, columns, label rate and distributions; AFTER is the latest by default."""
    from jollyboat.snapshots import snapshot, summary

    store = default_store()
    pair = (snapshot.open(each, store) for each in (before, after))
    click.echo(summary.format_difference(*pair))


@snapshots.command("prune", epilog="Example: jollyboat snapshots prune --keep 5")
@click.option("--keep", type=click.IntRange(1), required=True, help="How many of the newest stay.")
def prune_snapshots(keep: int) -> None:
    """Remove old snapshots, never one in use.

    Files that no other snapshot needs are removed too."""
    from jollyboat.snapshots import retention

    removed, size = retention.prune(default_store(), keep)
    names = ", ".join(removed) or "no snapshot"
    click.echo(f"removed {names}; {size / 1e6:.1f} MB are free again")
