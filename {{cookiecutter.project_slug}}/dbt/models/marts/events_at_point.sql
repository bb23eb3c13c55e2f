with points as (
    select * from {{ ref('int_points') }}
),

events as (
    select * from {{ ref('events') }}
),

seen as (
    select
        points.entity_id,
        points.point_at,
        events.event_number,
        events.source,
        events.{{ canonical_columns() | join(',\n        events.') }}
    from points
    inner join events
        on points.tenant_id = events.tenant_id
        and points.entity_id = events.session_id
        and events.event_number <= points.point_number
)

select * from seen
