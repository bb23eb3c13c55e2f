with records as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('int_records') }}
),

first_records as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('int_deduplicated_records') }}
),

{# A repeat of an order is a repeat of the purchase that is kept of it. #}
repeated_orders as (
    select tenant_id, source, event_id, same_order_as
    from first_records
    where same_order_as is not null
),

repeats as (
    select
        records.source,
        records.tenant_id,
        records.event_id,
        coalesce(repeated_orders.same_order_as, records.event_id) as repeats_event_id,
        'same_event_id' as reason,
        records.file,
        records.line_number,
        records.part,
        records.arrived_on
    from records
    anti join first_records
        on records.file_seq = first_records.file_seq
        and records.line_number = first_records.line_number
        and records.part = first_records.part
    left join repeated_orders
        on records.tenant_id = repeated_orders.tenant_id
        and records.source = repeated_orders.source
        and records.event_id = repeated_orders.event_id
    where records.reason is null
),

same_orders as (
    select
        records.source,
        records.tenant_id,
        records.event_id,
        first_records.same_order_as as repeats_event_id,
        'same_order_id' as reason,
        records.file,
        records.line_number,
        records.part,
        records.arrived_on
    from records
    inner join first_records
        on records.file_seq = first_records.file_seq
        and records.line_number = first_records.line_number
        and records.part = first_records.part
    where first_records.same_order_as is not null
),

duplicates as (
    select * from repeats
    union all
    select * from same_orders
)

select * from duplicates
