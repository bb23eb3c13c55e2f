{{ config(materialized='incremental', incremental_strategy='append', pre_hook="{{ forget(stale_sessions()) }}") }}

{%- set points = var('prediction_points') %}

with events as not materialized (
    select * from {{ ref('events') }}
),

verdicts as (
    select tenant_id, entity_id as session_id, judgement
    from {{ ref('judgements') }}
    where stands
),

{# A session is over once the data has gone on for longer than its silence. #}
clock as (
    select max(received_at) as data_ends_at
    from events
    where not {{ is_feedback('source') }}
),

grouped as (
    select
        tenant_id,
        session_id,
        min(occurred_at) as started_at,
        max(occurred_at) as ended_at,
        count(*) as event_count,
        min_by(anonymous_id, event_number) as anonymous_id,
        max_by(user_id, event_number) as user_id,
        min_by(device, event_number) as device,
        count(*) filter (where is_outcome) as outcome_count,
        min(event_number) filter (where is_outcome) as outcome_number,
        bool_or(device = 'bot') is true as has_bot_device
    from events
    where session_id is not null and {{ is_missing('session_id') }}
    group by all
),

judged as (
    select
        grouped.* exclude (has_bot_device),
        grouped.ended_at > clock.data_ends_at - interval ({{ var('session_silence_minutes') }}) minute as is_open,
        grouped.has_bot_device or (
            grouped.event_count >= {{ var('bot_event_count') }}
            and epoch(grouped.ended_at - grouped.started_at) <= {{ var('bot_seconds_per_event') }} * grouped.event_count
        ) as is_bot,
        verdicts.judgement,
        list_extract({{ points }}, cast(1 + {{ hash_bucket('grouped.session_id', points | length) }} as integer)) as asked_number
    from grouped
    cross join clock
    left join verdicts
        on grouped.tenant_id = verdicts.tenant_id and grouped.session_id = verdicts.session_id
),

{# A predicate that holds for each event of a session tells of the session, not of an event in it. #}
pointed as (
    select
        * exclude (asked_number, judgement),
        least(asked_number, event_count) as point_number,
        case
            when is_bot then 'bot'
            when judgement = 'not_a_person' then 'unfit'
            when outcome_number <= asked_number and outcome_count < event_count then 'had_outcome'
            when is_open then 'open'
            when event_count < asked_number then 'short'
            else 'train'
        end as status,
        case
            when status <> 'train' then null
            when judgement in ('outcome_true', 'outcome_false') then judgement = 'outcome_true'
            else outcome_count > 0
        end as label
    from judged
),

known as (
    select
        pointed.*,
        {{ person_of('pointed') }} as person_id
    from pointed
    {{ join_persons('pointed') }}
)

select * from known
