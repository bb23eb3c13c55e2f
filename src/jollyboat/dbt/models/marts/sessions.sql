{%- set points = var('prediction_points') %}

with events as not materialized (
    select * from {{ ref('events') }}
),

judgements as (
    select tenant_id, entity_id as session_id, judgement
    from {{ ref('judgements') }}
    where stands
),

identities as not materialized (
    select * from {{ ref('int_identities') }}
),

{# A session is over once the data has gone on for longer than its silence. #}
clock as (
    select max(received_at) as data_ends_at
    from events
    where not {{ jollyboat.is_feedback('source') }}
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
    where session_id is not null
    group by all
),

described as (
    select
        grouped.* exclude (has_bot_device),
        grouped.ended_at > clock.data_ends_at - interval ({{ var('session_silence_minutes') }}) minute as is_open,
        grouped.has_bot_device or (
            grouped.event_count >= {{ var('bot_event_count') }}
            and epoch(grouped.ended_at - grouped.started_at) <= {{ var('bot_seconds_per_event') }} * grouped.event_count
        ) as is_bot,
        judgements.judgement,
        list_extract(
            {{ points }}, cast(1 + {{ jollyboat.hash_bucket('grouped.session_id', points | length) }} as integer)
        ) as drawn_point
    from grouped
    cross join clock
    left join judgements
        on grouped.tenant_id = judgements.tenant_id and grouped.session_id = judgements.session_id
),

{# An outcome of each event of a session is a property of the session: it has not happened before the point. #}
labeled as (
    select
        * exclude (drawn_point, judgement),
        least(drawn_point, event_count) as point_number,
        case
            when is_bot then 'bot'
            when judgement = 'not_a_person' then 'unfit'
            when outcome_number <= drawn_point and outcome_count < event_count then 'had_outcome'
            when is_open then 'open'
            when event_count < drawn_point then 'short'
            else 'train'
        end as status,
        case
            when status <> 'train' then null
            when judgement in ('outcome_true', 'outcome_false') then judgement = 'outcome_true'
            else outcome_count > 0
        end as label
    from described
),

{# The account says more than a device that it may share; who carries no id is nobody else. #}
with_persons as (
    select
        labeled.*,
        coalesce(accounts.person_id, devices.person_id, 's:' || labeled.session_id) as person_id
    from labeled
    left join identities as accounts
        on labeled.tenant_id = accounts.tenant_id and labeled.user_id = accounts.id and accounts.id_kind = 'user'
    left join identities as devices
        on labeled.tenant_id = devices.tenant_id
        and labeled.anonymous_id = devices.id
        and devices.id_kind = 'anonymous'
)

select * from with_persons
