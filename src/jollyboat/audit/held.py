"""Which tenants a publication holds back, and why: their data fail, everybody else's do not."""

from collections.abc import Iterable, Mapping

from jollyboat.audit.finding import Finding
from jollyboat.pages.terminal import format_count
from jollyboat.store import Store
from jollyboat.warehouse import warehouse

MOST_TENANTS = 20
# Tables whose findings `jollyboat land --accept` accepts.
ACCEPTED = ("tenant_days", "missing_ids", "quarantined_events")


def find_held(store: Store, findings: Iterable[Finding]) -> tuple[dict[str, str], list[Finding]]:
    """The tenants to hold back, each with the reason, and the findings that stop everybody.

    A critical finding that cannot be attributed to tenants stops everybody, and so do findings that
    leave no tenant to publish.
    """
    critical = [finding for finding in findings if finding.stops]
    reasons: dict[str, list[str]] = {}
    for finding in critical:
        for tenant, observed in (finding.tenants or {}).items():
            sentence = f"{observed} (FAILED: {finding.table}: {finding.expectation})"
            reasons.setdefault(tenant, []).append(sentence)
    if any(finding.tenants is None for finding in critical) or not (
        _tenants_of_build(store) - reasons.keys()
    ):
        return {}, critical
    return {tenant: "; ".join(reasons[tenant]) for tenant in sorted(reasons)}, []


def _tenants_of_build(store: Store) -> set[str]:
    with warehouse.connect(store) as connection:
        rows = connection.sql("select distinct tenant_id from sessions").fetchall()
    return {tenant for (tenant,) in rows}


def format_held(held: Mapping[str, Mapping]) -> list[str]:
    """A line for each tenant of a snapshot's `held`: since when, why, and what to do."""
    lines = [
        f"held back: {tenant}, since {one['since']}: {one['reason']}. {describe(one)}. "
        f"{format_remedy(tenant, one)}"
        for tenant, one in held.items()
    ]
    if len(lines) > MOST_TENANTS:
        more = (
            f"held back: and {len(lines) - MOST_TENANTS} more tenants: `jollyboat snapshots show`"
        )
        lines = [*lines[:MOST_TENANTS], more]
    return lines


def describe(one: Mapping) -> str:
    """What is published of a held tenant, and what waits."""
    rows = f"Its rows up to {one['until']} stay" if one["until"] else "It has no rows yet"
    return f"{rows}, and {format_count(one['record_count'], 'record')} wait"


def format_remedy(tenant: str, one: Mapping) -> str:
    """What releases a held tenant."""
    accepts = any(f"FAILED: {table}:" in one["reason"] for table in ACCEPTED)
    other = f"accept them: `jollyboat land --accept --tenant {tenant}`" if accepts else "the suite"
    return f"Correct its data or its staging model, or {other}; then run `make data`"
