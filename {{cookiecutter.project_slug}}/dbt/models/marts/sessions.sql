with events as (
    select * from {{ ref('events') }}
),

{# A session is over once the data has gone on for longer than its silence. #}
clock as (
    select max(received_at) as data_ends_at
    from events
),

sessions as (
    select
        events.tenant_id,
        events.session_id,
        min(events.occurred_at) as started_at,
        max(events.occurred_at) as ended_at,
        count(*) as event_count,
        min_by(events.anonymous_id, events.event_number) as anonymous_id,
        max_by(events.user_id, events.event_number) as user_id,
        min_by(events.device, events.event_number) as device,
        count(*) filter (where events.is_outcome) as outcome_count,
        min(events.event_number) filter (where events.is_outcome) as outcome_number,
        bool_or(events.device = 'bot') is true as has_bot_device
    from events
    where events.session_id is not null
    group by all
),

judged as (
    select
        sessions.* exclude (has_bot_device),
        sessions.ended_at > clock.data_ends_at - interval ({{ var('session_silence_minutes') }}) minute as is_open,
        sessions.has_bot_device or (
            sessions.event_count >= {{ var('bot_event_count') }}
            and epoch(sessions.ended_at - sessions.started_at) <= {{ var('bot_seconds_per_event') }} * sessions.event_count
        ) as is_bot
    from sessions
    cross join clock
)

select * from judged
