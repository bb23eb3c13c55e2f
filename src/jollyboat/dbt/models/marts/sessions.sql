{%- set points = var('prediction_points') %}
{%- set silence = jollyboat.minutes(var('session_silence_minutes')) %}
{%- set draw = jollyboat.hash_bucket('session_events.session_id', points | length) %}

with events as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('events') }}
),

judgements as (
    select tenant_id, entity_id as session_id, judgement
    from {{ ref('judgements') }}
    where is_in_effect
),

identities as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('int_identities') }}
),

{# A session is over when its tenant's data goes on for longer than its silence. #}
data_end as (
    select tenant_id, received_until from {{ ref('int_tenant_data_end') }}
),

session_events as (
    select
        tenant_id,
        session_id,
        min(occurred_at) as started_at,
        max(occurred_at) as ended_at,
        count(*) as event_count,
        {{ jollyboat.min_by('anonymous_id', 'event_number') }} as anonymous_id,
        {{ jollyboat.max_by('user_id', 'event_number') }} as user_id,
        {{ jollyboat.min_by('device', 'event_number') }} as device,
        count(*) filter (where is_outcome) as outcome_count,
        min(event_number) filter (where is_outcome) as outcome_number,
        bool_or(device = 'bot') is true as has_bot_device
    from events
    where session_id is not null
    group by all
),

described as (
    select
        session_events.* {{ jollyboat.without('has_bot_device') }},
        session_events.ended_at > data_end.received_until - {{ silence }} as is_open,
        session_events.has_bot_device or (
            session_events.event_count >= {{ var('bot_event_count') }}
            and {{ jollyboat.seconds_between(
                'session_events.started_at', 'session_events.ended_at'
            ) }} <= {{ var('bot_seconds_per_event') }} * session_events.event_count
        ) as is_bot,
        judgements.judgement,
        case {{ draw }}
            {%- for point in points %}
            when {{ loop.index0 }} then {{ point }}
            {%- endfor %}
        end as drawn_point
    from session_events
    inner join data_end
        on session_events.tenant_id = data_end.tenant_id
    left join judgements
        on session_events.tenant_id = judgements.tenant_id
        and session_events.session_id = judgements.session_id
),

{# A session that is short may be open too: it has not reached its point. #}
labeled as (
    select
        * {{ jollyboat.without('drawn_point', 'judgement') }},
        least(drawn_point, event_count) as point_number,
        case
            when is_bot then 'bot'
            when judgement = 'not_a_person' then 'unfit'
            {% if not jollyboat.outcome_is_of_session() %}
            when outcome_number <= drawn_point then 'had_outcome'
            {% endif %}
            when event_count < drawn_point then 'short'
            when is_open then 'open'
            else 'train'
        end as status,
        case
            when status <> 'train' then null
            when judgement in ('outcome_true', 'outcome_false') then judgement = 'outcome_true'
            else outcome_count > 0
        end as label
    from described
),

{# People may share a device, so the account comes first. A session without ids is a person. #}
with_persons as (
    select
        labeled.*,
        coalesce(accounts.person_id, devices.person_id, 's:' || labeled.session_id) as person_id
    from labeled
    left join identities as accounts
        on labeled.tenant_id = accounts.tenant_id
        and labeled.user_id = accounts.id
        and accounts.id_kind = 'user'
    left join identities as devices
        on labeled.tenant_id = devices.tenant_id
        and labeled.anonymous_id = devices.id
        and devices.id_kind = 'anonymous'
)

select * from with_persons
