with records as (
    select * from {{ jollyboat.raw_records() }}
),

named as (
    select *, record ->> '$.web.webPageDetails.name' as page_name
    from records
),

mapped as (
    select
        *,
        'luma' as tenant_id,
        record ->> '$._id' as event_id,
        case
            when (record ->> '$.commerce.purchases') is not null then 'purchase'
            when (record ->> '$.commerce.checkouts') is not null then 'checkout'
            when (record ->> '$.commerce.productListAdds') is not null then 'cart_add'
            when (record ->> '$.commerce.productListViews') is not null then 'cart_view'
            when (record ->> '$.commerce.productViews') is not null then 'product_view'
            else coalesce(record ->> '$.web.webInteraction.name', 'page_view')
        end as event_type,
        record ->> '$.timestamp' as occurred_at,
        record ->> '$.receivedTimestamp' as received_at,
        coalesce(record ->> '$.endUserIDs._experience.mcid.id', record ->> '$.endUserIDs._experience.aaid.id') as anonymous_id,
        anonymous_id || '-' || (record ->> '$._experience.analytics.session.num') as session_id,
        record ->> '$.commerce.order.purchaseID' as order_id,
        record ->> '$.productListItems[0].SKU' as product_id,
        {# A checkout's pages name its steps, up to the thanks for the order. #}
        case when page_name not similar to '.*(checkout|order|thank).*' then split_part(page_name, ': products', 1) end as page,
        coalesce(record ->> '$.application.name', 'web') as channel,
        record ->> '$.placeContext.geo.countryCode' as country,
        record ->> '$.web.webReferrer.URL' as referrer
    from named
)

{{ jollyboat.canonical_events('mapped') }}
