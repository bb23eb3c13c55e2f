{# What is known of each @entity@ at its point. The server runs this query over a request. #}
with events as (
    select
        *,
        cast(occurred_at as date) as day,
        {{ jollyboat.seconds_between('occurred_at', 'point_at') }} / 86400 as days_ago,
        try_cast(
            {{ jollyboat.json_field('payload', 'product', 'discount') }} as decimal(9, 4)
        ) as discount
    from {{ ref('@name@_events_at_point') }}
),

last_days as (
    select tenant_id, entity_id, point_at, max(day) as last_day
    from events
    group by all
),

last_visits as (
    select
        events.tenant_id,
        events.entity_id,
        events.point_at,
        count(*) as last_visit_event_count,
        count(case when page = 'help' then 1 end) as last_visit_help_count,
        count(case when event_type = 'product_view' then 1 end) as last_visit_product_view_count,
        count(case when event_type = 'cart_add' then 1 end) as last_visit_cart_add_count,
        count(case when event_type = 'cart_remove' then 1 end) as last_visit_cart_remove_count,
        count(case when event_type = 'purchase' then 1 end) as last_visit_purchase_count,
        cast(max(discount) as double) as last_visit_discount
    from events
    inner join last_days
        on events.tenant_id = last_days.tenant_id
        and events.entity_id = last_days.entity_id
        and events.point_at = last_days.point_at
        and events.day = last_days.last_day
    group by all
),

histories as (
    select
        tenant_id,
        entity_id,
        point_at,
        count(*) as event_count,
        count(distinct day) as active_day_count,
        min(days_ago) as days_since_last_event,
        max(days_ago) as days_since_first_event,
        {{ jollyboat.ratio(
            'max(days_ago) - min(days_ago)', 'count(distinct day) - 1'
        ) }} as mean_gap_days,
        count(case when days_ago <= 7 then 1 end) as last_week_event_count,
        count(distinct case when days_ago <= 7 then day end) as last_week_active_day_count,
        count(case when event_type = 'product_view' then 1 end) as product_view_count,
        count(case when event_type = 'cart_add' then 1 end) as cart_add_count,
        count(case when event_type = 'purchase' then 1 end) as purchase_count,
        min(case when event_type = 'purchase' then days_ago end) as days_since_last_purchase,
        cast(
            sum(case when event_type = 'purchase' then price * quantity end) as double
        ) as spend,
        {{ jollyboat.max_by('device', 'event_number') }} as device,
        {{ jollyboat.max_by('channel', 'event_number') }} as channel,
        {{ jollyboat.max_by('country', 'event_number') }} as country
    from events
    group by all
),

features as (
    select
        histories.*,
        {{ jollyboat.ratio(
            'histories.days_since_last_event', 'histories.mean_gap_days'
        ) }} as silence_in_gaps,
        last_visits.* {{ jollyboat.without('tenant_id', 'entity_id', 'point_at') }}
    from histories
    inner join last_visits
        on histories.tenant_id = last_visits.tenant_id
        and histories.entity_id = last_visits.entity_id
        and histories.point_at = last_visits.point_at
)

select * from features
