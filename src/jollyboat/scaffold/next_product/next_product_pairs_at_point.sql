{{ config(materialized='view') }}

with candidates as (
    {{ jollyboat.candidate_items('next_product') }}
),

events as (
    select * from {{ ref('next_product_events_at_point') }}
),

{# What the session has shown up to the point. #}
sessions as (
    select
        tenant_id,
        entity_id,
        point_at,
        count(*) as event_count,
        count(case when event_type = 'product_view' then 1 end) as product_view_count,
        count(case when event_type = 'cart_add' then 1 end) as cart_add_count,
        {{ jollyboat.max_by('category', 'event_number') }} as last_category,
        cast({{ jollyboat.max_by('price', 'event_number') }} as double) as last_price,
        max(
            cast({{ jollyboat.json_field('payload', 'product', 'discount') }} as double)
        ) as discount,
        {{ jollyboat.min_by('device', 'event_number') }} as device,
        {{ jollyboat.min_by('channel', 'event_number') }} as channel
    from events
    group by all
),

{# What it did with the product itself. #}
products as (
    select
        tenant_id,
        entity_id,
        point_at,
        product_id as item,
        count(case when event_type = 'product_view' then 1 end) as own_view_count,
        count(case when event_type = 'cart_add' then 1 end) as own_cart_add_count
    from events
    where product_id is not null
    group by all
),

pairs as (
    select
        candidates.* {{ jollyboat.without('price', 'category') }},
        cast(candidates.category = sessions.last_category as integer) as is_same_category,
        candidates.price as product_price,
        candidates.price / nullif(sessions.last_price, 0) as price_ratio,
        coalesce(products.own_view_count, 0) as own_view_count,
        coalesce(products.own_cart_add_count, 0) as own_cart_add_count,
        sessions.event_count,
        sessions.product_view_count,
        sessions.cart_add_count,
        sessions.discount,
        sessions.device,
        sessions.channel
    from candidates
    inner join sessions using (tenant_id, entity_id, point_at)
    left join products using (tenant_id, entity_id, point_at, item)
)

select * from pairs
