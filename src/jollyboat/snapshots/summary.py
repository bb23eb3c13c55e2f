"""Snapshots as lines for the terminal: all of them, one, and the difference of two."""

from collections.abc import Iterator

import duckdb

from jollyboat.pages.terminal import format_percent, join_lines
from jollyboat.snapshots import distribution
from jollyboat.snapshots.retention import uses
from jollyboat.snapshots.snapshot import Snapshot, all_of, open_latest
from jollyboat.store import Store

MOST_USERS = 6  # that a line names; hundreds of tenants may have learned from one snapshot
LISTED, ABSENT = ("events", "sessions"), {"rows": 0, "columns": {}}


def format_all(store: Store) -> str:
    """A line for each snapshot, the newest first; UserError if there is none."""
    open_latest(store)
    return join_lines(_lines_of_all(store))


def _lines_of_all(store: Store) -> Iterator[str]:
    in_use = uses(store)
    yield (
        f"{'snapshot':<14}{'published':<18}{'events':>12}{'sessions':>12}{'for training':>15}"
        f"{'label rate':>12}"
    )
    for each in all_of(store):
        published_at = each.published_at[:16].replace("T", " ")
        counts = (each.manifest["tables"].get(name, ABSENT)["rows"] for name in LISTED)
        yield (
            f"{each.id:<14}{published_at:<18}{''.join(f'{count:>12,}' for count in counts)}"
            f"{each.statuses.get('train', 0):>15,}"
            f"{format_percent(each.label_rate):>12}  {_format_users(in_use.get(each.id, []))}"
        ).rstrip()


def _format_users(users: list[str]) -> str:
    """The users, at most MOST_USERS of them by name."""
    more = len(users) - MOST_USERS
    return ", ".join([*users[:MOST_USERS], *([f"{more} more"] if more > 0 else [])])


def format_one(one: Snapshot) -> str:
    """What a snapshot holds, as lines for the terminal."""
    return join_lines(_lines_of_one(one))


def _lines_of_one(one: Snapshot) -> Iterator[str]:
    manifest, users = one.manifest, _format_users(uses(one.store).get(one.id, [])) or "nobody"
    statuses = ", ".join(f"{count:,} {status}" for status, count in one.statuses.items())
    yield (
        f"snapshot {one.id}, published {one.published_at}, code {manifest.get('code')}, "
        f"used by {users}"
    )
    yield f"events from {' to '.join(manifest.get('events_between', ['unknown']))}"
    yield f"sessions: {statuses}; label rate {format_percent(one.label_rate)}"
    yield from (
        f"held back: {tenant}, since {each['since']}, rows up to {each['until'] or 'none'}, "
        f"{each['record_count']:,} records wait: {each['reason']}"
        for tenant, each in one.held.items()
    )
    yield from (f"audit: FAILED: {sentence}" for sentence in manifest.get("warnings", []))
    yield f"{'table':<22}{'rows':>12}{'columns':>9}{'files':>8}{'MB':>9}"
    for name, table in manifest["tables"].items():
        size = sum(path.stat().st_size for path in one.files(name)) / 1e6
        yield (
            f"{name:<22}{table['rows']:>12,}{len(table['columns']):>9}{len(table['files']):>8}"
            f"{size:>9.1f}"
        )


def format_difference(a: Snapshot, b: Snapshot) -> str:
    """Rows, columns, label rate and distributions of two snapshots, as lines."""
    return join_lines([*_changed_tables(a, b), *_changed_distributions(a, b)])


def _changed_tables(a: Snapshot, b: Snapshot) -> Iterator[str]:
    yield f"from {a.id} ({a.published_at}) to {b.id} ({b.published_at})"
    yield f"label rate: {format_percent(a.label_rate)} -> {format_percent(b.label_rate)}"
    before, after = (each.manifest.get("code") for each in (a, b))
    if before != after:
        yield f"code: {before} -> {after}"
    for name in {**a.manifest["tables"], **b.manifest["tables"]}:
        before, after = (each.manifest["tables"].get(name, ABSENT) for each in (a, b))
        growth = after["rows"] - before["rows"]
        yield f"{name}: {before['rows']:,} rows -> {after['rows']:,} ({growth:+,})"
        for column in {**before["columns"], **after["columns"]}:
            old, new = (each["columns"].get(column, "none") for each in (before, after))
            if old != new:
                yield f"  {column}: {old} -> {new}"


def _changed_distributions(a: Snapshot, b: Snapshot) -> Iterator[str]:
    yield f"{b.features}, the largest change first (0 is the same, above 0.25 is far):"
    scans = a.scan(a.features), b.scan(b.features)
    with duckdb.connect() as connection:
        rows = distribution.compare(connection, *scans)
    for row in rows:
        if row["distance"] >= 0.001:
            change = f"{row['before']} -> {row['after']}"
            yield f"  {row['column_name']:<32}{row['distance']:>8.3f}  {change}"
