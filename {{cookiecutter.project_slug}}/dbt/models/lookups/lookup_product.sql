{# A product's statistics as of the day before: they use what had arrived by then. #}
with events as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('events') }}
),

outcomes as (
    select tenant_id, session_id, min(received_at) as outcome_received_at
    from events
    where is_outcome and session_id is not null
    group by all
),

views as (
    select tenant_id, product_id, session_id, min(received_at) as view_received_at
    from events
    where product_id is not null and session_id is not null and not is_outcome
    group by all
),

changes as (
    select
        tenant_id,
        product_id as key,
        cast(view_received_at as date) as arrived_on,
        1 as view_session_count,
        0 as outcome_session_count
    from views
    union all
    select
        views.tenant_id,
        views.product_id as key,
        cast(greatest(views.view_received_at, outcomes.outcome_received_at) as date) as arrived_on,
        0 as view_session_count,
        1 as outcome_session_count
    from views
    inner join outcomes
        on views.tenant_id = outcomes.tenant_id and views.session_id = outcomes.session_id
),

days as (
    select
        tenant_id,
        key,
        arrived_on,
        sum(view_session_count) as view_session_count,
        sum(outcome_session_count) as outcome_session_count
    from changes
    group by all
),

totals as (
    select
        tenant_id,
        key,
        arrived_on + 1 as valid_from,
        lead(arrived_on) over product + 1 as valid_to,
        min(arrived_on) over product as first_seen_on,
        cast(sum(view_session_count) over product as bigint) as view_session_count,
        cast(sum(outcome_session_count) over product as bigint) as outcome_session_count
    from days
    window product as (partition by tenant_id, key order by arrived_on)
)

select * from totals
