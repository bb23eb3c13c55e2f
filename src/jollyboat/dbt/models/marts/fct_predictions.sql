{# What the server predicted, and the outcome after the point in the same session. #}
with events as not materialized (
    select * from {{ ref('events') }}
),

sessions as not materialized (
    select * from {{ ref('sessions') }}
),

parsed as (
    select
        tenant_id,
        event_id as request_id,
        occurred_at as answered_at,
        json_transform(payload, '{
            "entity_id": "VARCHAR", "anonymous_id": "VARCHAR", "user_id": "VARCHAR", "event_count": "BIGINT",
            "point_at": "VARCHAR", "features_hash": "VARCHAR", "probability": "DOUBLE", "decision": "BOOLEAN",
            "threshold": "DOUBLE", "champion": "VARCHAR", "model_version": "VARCHAR", "variant": "VARCHAR",
            "latency_ms": "DOUBLE"
        }') as answer
    from events
    where source = 'predictions'
),

answers as (
    select
        tenant_id,
        request_id,
        answered_at,
        answer.entity_id,
        answer.anonymous_id,
        answer.user_id,
        answer.event_count,
        {{ jollyboat.utc_timestamp('answer.point_at') }} as point_at,
        answer.features_hash,
        answer.probability,
        answer.decision,
        answer.threshold,
        answer.champion,
        answer.model_version,
        answer.variant,
        answer.latency_ms
    from parsed
),

{# The session of a client that sends no session's id: its device's, else its account's, that holds the point. #}
by_device as (
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

placed as (
    select
        answers.*,
        sessions.session_id,
        sessions.is_open,
        sessions.ended_at
    from answers
    left join by_device
        on answers.tenant_id = by_device.tenant_id and answers.request_id = by_device.request_id
    left join sessions
        on answers.tenant_id = sessions.tenant_id
        and coalesce(by_device.session_id, answers.entity_id) = sessions.session_id
),

outcomes as (
    select tenant_id, session_id, occurred_at, received_at
    from events
    where is_outcome and session_id is not null
),

followed as (
    select
        placed.tenant_id,
        placed.request_id,
        min(outcomes.received_at) filter (where outcomes.occurred_at > placed.point_at) as outcome_received_at,
        bool_or(outcomes.occurred_at <= placed.point_at) as had_outcome
    from placed
    inner join outcomes
        on placed.tenant_id = outcomes.tenant_id and placed.session_id = outcomes.session_id
    group by all
),

labeled as (
    select
        placed.* exclude (is_open, ended_at),
        coalesce(followed.had_outcome, false) as had_outcome,
        case
            when followed.outcome_received_at is not null then true
            when not placed.is_open then false
        end as outcome,
        case
            when followed.outcome_received_at is not null then followed.outcome_received_at
            when not placed.is_open then placed.ended_at + interval ({{ var('session_silence_minutes') }}) minute
        end as outcome_known_at
    from placed
    left join followed
        on placed.tenant_id = followed.tenant_id and placed.request_id = followed.request_id
),

predictions as (
    select *, outcome is null as is_waiting
    from labeled
)

select * from predictions
