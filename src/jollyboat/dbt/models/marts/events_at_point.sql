{{ config(materialized='view', meta={'published_as': 'query'}) }}

{#
    The events of each session up to its point. A snapshot publishes this query and runs it over
    its own sessions and events.
#}
with sessions as (
    select * from {{ ref('sessions') }}
    where {{ jollyboat.in_chunk('session_id') }}
),

events as (
    select * from {{ ref('events') }}
),

times as (
    select tenant_id, session_id, event_number, occurred_at from {{ ref('events') }}
),

{# Events are numbered by time: the point is the time of the last event that is used. #}
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

up_to_point as (
    select
        events.session_id as entity_id,
        points.point_at,
        events.event_number,
        events.source,
        events.{{ jollyboat.canonical_columns() | join(',\n        events.') }}
    from events
    inner join points
        on events.tenant_id = points.tenant_id
        and events.session_id = points.session_id
        and events.event_number <= points.point_number
)

select * from up_to_point
