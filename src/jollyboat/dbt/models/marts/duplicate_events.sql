with records as not materialized (
    select * from {{ ref('int_records') }}
),

firsts as not materialized (
    select * from {{ ref('int_deduplicated_records') }}
),

{# A repeat of an order whose web purchase is kept repeats that one. #}
marked as (
    select tenant_id, event_id, same_order_as
    from firsts
    where same_order_as is not null
),

repeats as (
    select
        records.source,
        records.tenant_id,
        records.event_id,
        coalesce(marked.same_order_as, records.event_id) as repeats_event_id,
        'same_event_id' as reason,
        records.file,
        records.line_number,
        records.arrived_on
    from records
    anti join firsts
        on records.file_seq = firsts.file_seq and records.line_number = firsts.line_number
    left join marked
        on records.tenant_id = marked.tenant_id and records.event_id = marked.event_id
    where records.reason is null
),

same_orders as (
    select
        records.source,
        records.tenant_id,
        records.event_id,
        firsts.same_order_as as repeats_event_id,
        'same_order_id' as reason,
        records.file,
        records.line_number,
        records.arrived_on
    from records
    inner join firsts
        on records.file_seq = firsts.file_seq and records.line_number = firsts.line_number
    where firsts.same_order_as is not null
),

duplicates as (
    select * from repeats
    union all
    select * from same_orders
)

select * from duplicates
