with records as (
    select * from {{ jollyboat.raw_records() }}
),

mapped as (
    select
        *,
        record ->> 'shop_code' as tenant_id,
        'order-' || {{ jollyboat.text("(record ->> 'order_no')") }} as event_id,
        'purchase' as event_type,
        record ->> 'placed_at' as occurred_at,
        record ->> 'visitor_cookie' as anonymous_id,
        record ->> 'customer_no' as user_id,
        record ->> 'order_no' as order_id,
        record ->> 'total' as price,
        record ->> 'currency' as currency
    from records
)

{{ jollyboat.canonical_events('mapped') }}
