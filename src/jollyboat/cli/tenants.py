"""Commands about single tenants: their data, models and quality, and decisions about them."""

from collections.abc import Callable

import click

from jollyboat.cli.options import agree_option, question_option
from jollyboat.store import Store, default_store, person, project_settings

why_option = click.option("--why", default="decided by hand", help="Kept with the decision.")


@click.group(invoke_without_command=True, epilog="Example: jollyboat tenants --status 'held back'")
@click.option("--status", help="Only tenants of this status, such as 'held back', drift or fine.")
@click.option("--own", is_flag=True, help="Only tenants with a model of their own.")
@click.option("--stale", is_flag=True, help="Only tenants whose newest event is old.")
@question_option
@click.pass_context
def tenants(context: click.Context, status: str | None, own: bool, stale: bool, store: Store):
    """List all tenants, the worst first; show one, and change what answers it."""
    if context.invoked_subcommand is not None:
        return
    from jollyboat.serving import fleet
    from jollyboat.store import UserError, suggest

    if status and status not in fleet.STATUSES:
        hint = suggest(status, fleet.STATUSES) or f" There are {', '.join(fleet.STATUSES)}."
        raise UserError(f"No tenant can have the status {status!r}.{hint}")
    every = _gather(store)
    chosen = [
        one
        for one in every
        if (not status or one.status == status)
        and (not own or one.model == "own")
        and (not stale or one.is_stale)
    ]
    click.echo(fleet.format_tenants(chosen, len(every)))
    click.echo(f"page: {fleet.page_of(store)}")


@tenants.command(epilog="Example: jollyboat tenants show acme")
@click.argument("tenant")
@question_option
def show(tenant: str, store: Store) -> None:
    """Show what is known of one tenant."""
    from jollyboat.serving import fleet

    click.echo(fleet.format_tenant(fleet.find(_gather(store), tenant)))


@tenants.command(epilog="Example: jollyboat tenants rollback acme --why 'too many alarms'")
@click.argument("tenant")
@click.option("--to", metavar="VERSION", help="The model before the present one by default.")
@why_option
@question_option
def rollback(tenant: str, to: str | None, why: str, store: Store) -> None:
    """Go back to the model that answered the tenant before.

    Before its first own model that is the shared one."""
    from jollyboat.champions import champion

    change = champion.rollback(store, tenant, to, by=person(), why=why)
    click.echo(f"tenants: {change.sentence}")


@tenants.command(epilog="Example: jollyboat tenants pin acme shared --why 'they want it simple'")
@click.argument("tenant")
@click.argument("model", type=click.Choice(["shared"]))
@why_option
@question_option
def pin(tenant: str, model: str, why: str, store: Store) -> None:
    """Let the shared model answer a tenant until `jollyboat tenants resume`."""
    from jollyboat.champions import policy

    _find(store, tenant)
    policy.pin(store, tenant, by=person(), why=why)
    click.echo(f"tenants: the {model} model answers {tenant} until `tenants resume {tenant}`.")


@tenants.command(epilog="Example: jollyboat tenants pause acme --why 'their sale'")
@click.argument("tenant")
@why_option
@question_option
def pause(tenant: str, why: str, store: Store) -> None:
    """Keep the model that answers a tenant now; nothing new is promoted."""
    from jollyboat.champions import policy

    _find(store, tenant)
    change = policy.pause(store, tenant, by=person(), why=why)
    click.echo(f"tenants: {change.version} answers {tenant} until `tenants resume {tenant}`.")


@tenants.command(epilog="Example: jollyboat tenants resume acme")
@click.argument("tenant")
@why_option
@question_option
def resume(tenant: str, why: str, store: Store) -> None:
    """End a pin or a pause."""
    from jollyboat.champions import policy

    policy.resume(store, tenant, by=person(), why=why)
    click.echo(f"tenants: the next `make deploy` decides about {tenant} again.")


@tenants.command(epilog="Example: jollyboat tenants erase acme")
@click.argument("tenant")
@agree_option
def erase(tenant: str, agree: Callable[[str], None]) -> None:
    """Remove every record about a tenant, as `jollyboat erase --tenant` does."""
    from jollyboat.erasure import erase as erasure

    store = default_store()
    report = erasure.erase(store, tenant, None, agree=agree)
    click.echo(erasure.format_summary(report, erasure.unknown_files(store)))


def _gather(store: Store) -> list:
    from jollyboat.serving import fleet

    settings = project_settings()
    return fleet.gather(store, settings.of(store.question))


def _find(store: Store, tenant: str) -> None:
    """UserError where there is no such tenant."""
    from jollyboat.serving import fleet

    fleet.find(_gather(store), tenant)
