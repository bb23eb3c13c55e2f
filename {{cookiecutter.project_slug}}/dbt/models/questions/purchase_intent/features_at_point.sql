{{ config(materialized='view') }}

with events as (
    select * from {{ ref('events_at_point') }}
),

products as (
    select * from {{ ref('lookup_product') }}
),

visitors as (
    select * from {{ ref('lookup_visitor') }}
),

{#
    The server runs this query over the few rows of a request. Window functions, `filter` and
    `count(distinct)` would take most of its time there.
#}
described_events as (
    select
        events.*,
        {{ jollyboat.seconds_between(
            'previous.occurred_at', 'events.occurred_at'
        ) }} as gap_seconds,
        concat_ws('>', previous.event_type, events.event_type) as last_two_event_types,
        try_cast(
            {{ jollyboat.json_field('events.payload', 'product', 'discount') }} as decimal(9, 4)
        ) as discount,
        products.view_session_count / {{ jollyboat.days_between(
            'products.first_seen_on', 'cast(events.point_at as date)'
        ) }} as product_popularity,
        products.outcome_session_count / (products.view_session_count + 10) as product_outcome_rate
    from events
    left join events as previous
        on events.tenant_id = previous.tenant_id
        and events.entity_id = previous.entity_id
        and events.event_number = previous.event_number + 1
    left join products
        on events.tenant_id = products.tenant_id
        and events.product_id = products.key
        and cast(events.point_at as date) >= products.valid_from
        and cast(events.point_at as date) < coalesce(products.valid_to, date '9999-12-31')
),

behaviour as (
    select
        tenant_id,
        entity_id,
        point_at,
        count(*) as event_count,
        {{ jollyboat.seconds_between('min(occurred_at)', 'point_at') }} as seconds_so_far,
        {{ jollyboat.seconds_between(
            'min(occurred_at)', 'point_at'
        ) }} / count(*) as seconds_per_event,
        {{ jollyboat.max_by('gap_seconds', 'event_number') }} as last_gap_seconds,
        max(gap_seconds) as longest_gap_seconds,
        count(case when event_type = 'page_view' then 1 end) as page_view_count,
        count(case when event_type = 'product_view' then 1 end) as product_view_count,
        {{ jollyboat.count_distinct('product_id') }} as distinct_product_count,
        count(case when event_type = 'cart_add' then 1 end) as cart_add_count,
        count(case when event_type = 'cart_remove' then 1 end) as cart_remove_count,
        count(case when event_type = 'search' then 1 end) as search_count,
        {{ jollyboat.count_distinct('category') }} as category_count,
        cast(sum(price) as double) / count(price) as mean_price,
        cast(max(price) as double) as max_price,
        cast({{ jollyboat.max_by('price', 'event_number') }} as double) as last_price,
        cast(max(discount) as double) as max_discount,
        length({{ jollyboat.max_by('query', 'event_number') }}) as last_query_length,
        {{ jollyboat.min_by('page', 'event_number') }} as first_page,
        {{ jollyboat.max_by('page', 'event_number') }} as last_page,
        {{ jollyboat.max_by('event_type', 'event_number') }} as last_event_type,
        {{ jollyboat.max_by('last_two_event_types', 'event_number') }} as last_two_event_types,
        {{ jollyboat.min_by('channel', 'event_number') }} as channel,
        {{ jollyboat.min_by('device', 'event_number') }} as device,
        {{ jollyboat.min_by('country', 'event_number') }} as country,
        {{ jollyboat.min_by(
            "regexp_extract(referrer, '^[a-z]+://([^/:]+)', 1)", 'event_number'
        ) }} as referrer_kind,
        cast(count(user_id) > 0 as integer) as is_known_visitor,
        cast(
            count(case when event_number = 1 then user_id end) > 0 as integer
        ) as is_known_from_start,
        extract(hour from point_at) as hour_of_day,
        {{ jollyboat.weekday('point_at') }} as day_of_week,
        max(product_popularity) as product_popularity,
        max(product_outcome_rate) as product_outcome_rate
    from described_events
    group by tenant_id, entity_id, point_at
),

visitor_keys as (
    select
        tenant_id,
        entity_id,
        point_at,
        {{ jollyboat.each_of("'a:' || anonymous_id", "'u:' || user_id") }} as key
    from events
),

visitor_history as (
    select
        visitor_keys.tenant_id,
        visitor_keys.entity_id,
        max(visitors.session_count) as visitor_past_session_count,
        max(visitors.outcome_count) as visitor_past_outcome_count,
        min(
            {{ jollyboat.days_between(
                'visitors.last_seen_on', 'cast(visitor_keys.point_at as date)'
            ) }}
        ) as days_since_last_visit
    from visitor_keys
    inner join visitors
        on visitor_keys.tenant_id = visitors.tenant_id
        and visitor_keys.key = visitors.key
        and cast(visitor_keys.point_at as date) >= visitors.valid_from
        and (cast(visitor_keys.point_at as date) < visitors.valid_to or visitors.valid_to is null)
    group by all
),

features as (
    select
        behaviour.*,
        coalesce(visitor_history.visitor_past_session_count, 0) as visitor_past_session_count,
        coalesce(visitor_history.visitor_past_outcome_count, 0) as visitor_past_outcome_count,
        visitor_history.days_since_last_visit
    from behaviour
    left join visitor_history
        on behaviour.tenant_id = visitor_history.tenant_id
        and behaviour.entity_id = visitor_history.entity_id
)

select * from features
