"""The points of each question but the first: complete, unique, and decided by what came before.

Expectations in SQL that a team need not write. They are critical: a point that depends on later
events makes every figure of the question too good. That is a fault of the SQL and not of one
tenant, so it stops the publication of all tenants.
"""

from jollyboat.audit.finding import KEYS_KEPT, Finding
from jollyboat.pages.terminal import format_count
from jollyboat.store import Store
from jollyboat.warehouse import warehouse

KEY = "tenant_id, entity_id, point_at"
EVENTS = '"warehouse"."main"."events"'  # in SQL that dbt compiled
INCOMPLETE = f"""
select {KEY} from {{points}} where tenant_id is null or entity_id is null or point_at is null
"""
REPEATED = f"select {KEY} from {{points}} group by all having count(*) > 1"
IN_THE_FUTURE = f"""
select {KEY} from {{points}} where point_at > (select occurred_until from int_data_end)
"""
# The points up to a moment, built from all events and from those up to it. The last day differs
# where the points have the newest day.
DEPENDS_ON_LATER = f"""
with cut as (select quantile_disc(point_at, 0.5) as moment from {{points}}),
events_until as (select events.* from events cross join cut where occurred_at <= moment),
until as (select moment - interval 1 day as until from cut),
points as (select {KEY} from {{points}} where point_at < (from until)),
earlier as (select {KEY} from ({{sql}}) where point_at < (from until))
(from points except from earlier) union all (from earlier except from points)
"""
FUTURE = "which points there are depends on no later event"
EXPECTATIONS = {
    "every point has a tenant, an entity and a time": INCOMPLETE,
    "an entity is asked once at a point": REPEATED,
    "no point is later than the data": IN_THE_FUTURE,
    FUTURE: DEPENDS_ON_LATER,
}


def audit_points(store: Store) -> list[Finding]:
    """A finding for each of these expectations on each question's points."""
    findings = []
    with warehouse.connect(store) as connection:
        for name, definition in warehouse.other_questions(store).items():
            table = f"{name}_points"
            sql = warehouse.compiled(store, table).replace(EVENTS, "events_until")
            for expectation, query in EXPECTATIONS.items():
                if expectation == FUTURE and "item" in definition:
                    continue
                rows = connection.sql(query.format(points=table, sql=sql))
                keys = [
                    dict(zip(rows.columns, map(_text, row), strict=True))
                    for row in rows.limit(KEYS_KEPT).fetchall()
                ]
                counts = {}
                if keys:
                    counts = dict(rows.aggregate("tenant_id, count(*)").order("all").fetchall())
                observed = format_count(sum(counts.values()), "row")
                tenants = None
                if counts and None not in counts and expectation != FUTURE:
                    tenants = {name: format_count(count, "row") for name, count in counts.items()}
                findings.append(
                    Finding(table, expectation, "critical", not counts, observed, keys, tenants)
                )
    return findings


def _text(value: object) -> str:
    return "null" if value is None else str(value)
