with records as (
    select * from {{ jollyboat.raw_records() }}
),

parsed as (
    select
        *,
        json_transform(record, '{
            "event": {"id": "VARCHAR", "type": "VARCHAR", "ts": "VARCHAR"},
            "received": "VARCHAR",
            "shop": "VARCHAR",
            "visitor": {"anonymous_id": "VARCHAR", "user_id": "VARCHAR"},
            "session": {"id": "VARCHAR"},
            "context": {
                "page": {"name": "VARCHAR", "url": "VARCHAR", "referrer": "VARCHAR"},
                "device": {"type": "VARCHAR"},
                "channel": "VARCHAR", "utm_medium": "VARCHAR", "country": "VARCHAR"
            },
            "product": {
                "id": "VARCHAR", "price": "VARCHAR", "quantity": "VARCHAR", "currency": "VARCHAR",
                "category": "VARCHAR"
            },
            "search": {"query": "VARCHAR"},
            "order": {"id": "VARCHAR"}
        }') as web
    from records
),

mapped as (
    select
        * exclude (web),
        web.shop as tenant_id,
        web.event.id as event_id,
        {# Some tenants use the event names of GA4 or Segment, or their own. #}
        case
            when web.event.type in ('Page Viewed', 'viewPage') then 'page_view'
            when web.event.type in ('Products Searched', 'siteSearch') then 'search'
            when web.event.type in ('view_item', 'Product Viewed', 'viewProduct')
                then 'product_view'
            when web.event.type in ('add_to_cart', 'Product Added', 'addToBasket') then 'cart_add'
            when web.event.type in ('remove_from_cart', 'Product Removed', 'removeFromBasket')
                then 'cart_remove'
            when web.event.type in ('begin_checkout', 'Checkout Started', 'startCheckout')
                then 'checkout'
            when web.event.type in ('Order Completed', 'placeOrder') then 'purchase'
            else web.event.type
        end as event_type,
        web.event.ts as occurred_at,
        web.received as received_at,
        web.visitor.anonymous_id,
        web.visitor.user_id,
        web.session.id as session_id,
        web."order".id as order_id,
        web.product.id as product_id,
        web.product.price,
        web.product.quantity,
        web.product.currency,
        web.product.category,
        web.search.query,
        web.context.page.name as page,
        web.context.page.url,
        web.context.page.referrer,
        coalesce(web.context.channel, web.context.utm_medium) as channel,
        web.context.device.type as device,
        web.context.country,
        {# The rest keeps the fields that are not mapped yet, but not the visitor's IP address. #}
        json_merge_patch(record, '{
            "received": null, "shop": null,
            "event": {"id": null, "type": null, "ts": null},
            "visitor": {"anonymous_id": null, "user_id": null}, "session": {"id": null},
            "context": {
                "page": {"name": null, "url": null, "referrer": null}, "device": {"type": null},
                "channel": null, "utm_medium": null, "country": null, "ip": null
            },
            "product": {
                "id": null, "price": null, "quantity": null, "currency": null, "category": null
            },
            "search": {"query": null}, "order": {"id": null}
        }') as rest
    from parsed
),

{# Most of the rest would be empty groups. #}
shortened as (
    select
        * exclude (rest),
        {% set empty_group = '"(?:event|visitor|session|page|device|search|order)":\\{\\}' -%}
        regexp_replace(
            cast(rest as varchar), ',{{ empty_group }}|{{ empty_group }},', '', 'g'
        ) as payload
    from mapped
)

{{ jollyboat.canonical_events('shortened') }}
