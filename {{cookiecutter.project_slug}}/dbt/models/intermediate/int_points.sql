{# When each session is looked at, and what that teaches: one row per session. #}
{%- set points = var('prediction_points') %}

with sessions as (
    select
        *,
        list_extract({{ points }}, cast(1 + {{ hash_bucket('session_id', points | length) }} as integer)) as point_number
    from {{ ref('sessions') }}
),

events as (
    select * from {{ ref('events') }}
),

{# A predicate that holds for each event of a session tells of the session, not of an event in it. #}
judged as (
    select
        tenant_id,
        session_id,
        least(point_number, event_count) as point_number,
        started_at,
        case
            when is_bot then 'bot'
            when outcome_number <= point_number and outcome_count < event_count then 'had_outcome'
            when is_open then 'open'
            when event_count < point_number then 'short'
            else 'train'
        end as status,
        outcome_count > 0 as has_outcome
    from sessions
),

points as (
    select
        judged.tenant_id,
        judged.session_id as entity_id,
        events.occurred_at as point_at,
        judged.point_number,
        judged.started_at,
        judged.status,
        case when judged.status = 'train' then judged.has_outcome end as label
    from judged
    inner join events
        on judged.tenant_id = events.tenant_id
        and judged.session_id = events.session_id
        and judged.point_number = events.event_number
)

select * from points
