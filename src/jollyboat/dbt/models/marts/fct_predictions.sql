{#
    What the server predicted, and the outcome after the point: in the same session, or within the
    horizon of the question.
#}
{%- set silence = jollyboat.minutes(var('session_silence_minutes')) %}

with events as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('events') }}
),

sessions as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('sessions') }}
),

data_end as ( -- noqa: ST03
    select tenant_id, received_until from {{ ref('int_tenant_data_end') }}
),

parsed as (
    select
        tenant_id,
        event_id as request_id,
        occurred_at as answered_at,
        {{ jollyboat.json_struct('payload', {
            'question': 'string', 'entity_id': 'string', 'anonymous_id': 'string',
            'user_id': 'string', 'event_count': 'bigint', 'point_at': 'string',
            'features_hash': 'string', 'status': 'string', 'probability': 'double',
            'decision': 'boolean', 'threshold': 'double', 'champion': 'string',
            'model_version': 'string', 'variant': 'string', 'latency_ms': 'double'
        }) }} as answer
    from events
    where source = 'predictions'
),

all_answers as (
    select
        tenant_id,
        request_id,
        answered_at,
        answer.question,
        answer.entity_id,
        answer.anonymous_id,
        answer.user_id,
        answer.event_count,
        {{ jollyboat.utc_timestamp('answer.point_at') }} as point_at,
        answer.features_hash,
        coalesce(
            answer.status, case when answer.probability is null then 'failed' else 'predicted' end
        ) as answer_status,
        answer.probability,
        answer.decision,
        answer.threshold,
        answer.champion,
        answer.model_version,
        answer.variant,
        answer.latency_ms
    from parsed
),

answers as (
    select * from all_answers
    where question is null
),

{#
    A client may send no session id. Its session is then that of the device (else of the account)
    at the point.
#}
device_sessions as (
    select
        answers.tenant_id,
        answers.request_id,
        max_by(sessions.session_id, (sessions.started_at, sessions.session_id)) as session_id
    from answers
    anti join sessions as named
        on answers.tenant_id = named.tenant_id and answers.entity_id = named.session_id
    inner join sessions
        on answers.tenant_id = sessions.tenant_id
        and coalesce('a:' || answers.anonymous_id, 'u:' || answers.user_id)
        = coalesce('a:' || sessions.anonymous_id, 'u:' || sessions.user_id)
        and answers.point_at between sessions.started_at and sessions.ended_at
    group by all
),

answers_with_session as (
    select
        answers.*,
        sessions.session_id,
        sessions.is_open,
        sessions.ended_at
    from answers
    left join device_sessions
        on answers.tenant_id = device_sessions.tenant_id
        and answers.request_id = device_sessions.request_id
    left join sessions
        on answers.tenant_id = sessions.tenant_id
        and coalesce(device_sessions.session_id, answers.entity_id) = sessions.session_id
),

outcomes as (
    select tenant_id, session_id, occurred_at, event_number, received_at
    from events
    where is_outcome and session_id is not null
),

{# Of the same time, an outcome is after the point where its number in the session is. #}
outcomes_of_answers as (
    select
        answers_with_session.tenant_id,
        answers_with_session.request_id,
        outcomes.received_at,
        coalesce(
            outcomes.occurred_at > answers_with_session.point_at
            or (
                outcomes.occurred_at = answers_with_session.point_at
                and outcomes.event_number > answers_with_session.event_count
            ),
            false
        ) as is_after
    from answers_with_session
    inner join outcomes
        on answers_with_session.tenant_id = outcomes.tenant_id
        and answers_with_session.session_id = outcomes.session_id
),

outcomes_by_request as (
    select
        tenant_id,
        request_id,
        min(received_at) filter (where is_after) as outcome_received_at,
        bool_or(not is_after) as had_outcome
    from outcomes_of_answers
    group by all
),

labeled as (
    select
        answers_with_session.* {{ jollyboat.without('is_open', 'ended_at') }},
        coalesce(outcomes_by_request.had_outcome, false) as had_outcome,
        case
            when outcomes_by_request.outcome_received_at is not null then true
            when not answers_with_session.is_open then false
        end as outcome,
        case
            when outcomes_by_request.outcome_received_at is not null
                then outcomes_by_request.outcome_received_at
            when not answers_with_session.is_open
                then answers_with_session.ended_at + {{ silence }}
        end as outcome_known_at
    from answers_with_session
    left join outcomes_by_request
        on answers_with_session.tenant_id = outcomes_by_request.tenant_id
        and answers_with_session.request_id = outcomes_by_request.request_id
),

all_labeled as (
    select * from labeled
    {%- for name in jollyboat.question_names() %}
    union all
    {{ jollyboat.answers_with_outcomes(name) }}
    {%- endfor %}
),

predictions as (
    select *, outcome is null as is_waiting
    from all_labeled
)

select * from predictions
