{{ config(materialized='view') }}

with sessions as (
    select * from {{ ref('sessions') }}
),

events as (
    select * from {{ ref('events') }}
),

seen as (
    select
        events.session_id as entity_id,
        max(events.occurred_at) over (partition by events.tenant_id, events.session_id) as point_at,
        events.event_number,
        events.source,
        events.{{ canonical_columns() | join(',\n        events.') }}
    from events
    inner join sessions
        on events.tenant_id = sessions.tenant_id
        and events.session_id = sessions.session_id
        and events.event_number <= sessions.point_number
)

select * from seen
