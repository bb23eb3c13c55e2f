{{ config(materialized='view') }}

with sessions as (
    select * from {{ ref('sessions') }}
),

events as not materialized (
    select * from {{ ref('events') }}
),

{# Of a session's events, numbered by time, the one at the point is the last that is seen. #}
points as (
    select
        sessions.tenant_id,
        sessions.session_id,
        sessions.point_number,
        events.occurred_at as point_at
    from sessions
    inner join events
        on sessions.tenant_id = events.tenant_id
        and sessions.session_id = events.session_id
        and sessions.point_number = events.event_number
),

seen as (
    select
        events.session_id as entity_id,
        points.point_at,
        events.event_number,
        events.source,
        events.{{ canonical_columns() | join(',\n        events.') }}
    from events
    inner join points
        on events.tenant_id = points.tenant_id
        and events.session_id = points.session_id
        and events.event_number <= points.point_number
)

select * from seen
