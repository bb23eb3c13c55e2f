{{ config(materialized='view') }}

{# Published as it stands: a snapshot reads it over its own sessions and events. #}
with sessions as (
    select * from {{ ref('sessions') }}
),

events as (
    select * from {{ ref('events') }}
),

times as (
    select tenant_id, session_id, event_number, occurred_at from {{ ref('events') }}
),

{# Of a session's events, numbered by time, the one at the point is the last that is seen. #}
points as (
    select
        sessions.tenant_id,
        sessions.session_id,
        sessions.point_number,
        times.occurred_at as point_at
    from sessions
    inner join times
        on sessions.tenant_id = times.tenant_id
        and sessions.session_id = times.session_id
        and sessions.point_number = times.event_number
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
