{# A device's or account's statistics as of the day before: they use what had arrived by then. #}
with events as (
    select * from {{ ref('events') }}
),

visitor_events as (
    select tenant_id, session_id, received_at, is_outcome, 'a:' || anonymous_id as key
    from events
    where session_id is not null and anonymous_id is not null
    union all
    select tenant_id, session_id, received_at, is_outcome, 'u:' || user_id as key
    from events
    where session_id is not null and user_id is not null
),

visits as (
    select
        tenant_id,
        key,
        session_id,
        cast(min(received_at) as date) as arrived_on,
        cast(min(received_at) filter (where is_outcome) as date) as outcome_arrived_on
    from visitor_events
    group by all
),

changes as (
    select tenant_id, key, arrived_on, 1 as session_count, 0 as outcome_count
    from visits
    union all
    select tenant_id, key, outcome_arrived_on as arrived_on, 0 as session_count, 1 as outcome_count
    from visits
    where outcome_arrived_on is not null
),

days as (
    select
        tenant_id,
        key,
        arrived_on,
        sum(session_count) as session_count,
        sum(outcome_count) as outcome_count
    from changes
    group by all
),

totals as (
    select
        tenant_id,
        key,
        arrived_on + 1 as valid_from,
        lead(arrived_on) over visitor + 1 as valid_to,
        arrived_on as last_seen_on,
        cast(sum(session_count) over visitor as bigint) as session_count,
        cast(sum(outcome_count) over visitor as bigint) as outcome_count
    from days
    window visitor as (partition by tenant_id, key order by arrived_on)
)

select * from totals
