with records as (
    select * from {{ jollyboat.raw_records() }}
),

mapped as (
    select
        *,
        'shop' as tenant_id,
        record ->> 'client_id' as anonymous_id,
        record ->> 'timestamp' as occurred_at,
        case record ->> 'event'
            when 'payment_done' then 'purchase'
            when 'product1' then 'cart_add'
            when 'product2' then 'cart_add'
            else record ->> 'event'
        end as event_type,
        record ->> 'event' as page
    from records
)

{{ jollyboat.canonical_events('mapped') }}
