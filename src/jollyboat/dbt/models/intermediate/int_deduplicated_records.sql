{# The record that is kept of each event, without its wide columns: the one received first, and one purchase of each order. #}
with records as not materialized (
    select
        file_seq,
        line_number,
        source,
        tenant_id,
        event_id,
        event_type,
        occurred_at,
        anonymous_id,
        user_id,
        session_id,
        order_id,
        received_at,
        file
    from {{ ref('int_records') }}
    where reason is null
),

{# Few are repeats, and only these need an order. #}
repeated as (
    select tenant_id, event_id
    from records
    group by all
    having count(*) > 1
),

firsts as (
    select *
    from records
    anti join repeated
        on records.tenant_id = repeated.tenant_id and records.event_id = repeated.event_id
    union all
    select *
    from records
    semi join repeated
        on records.tenant_id = repeated.tenant_id and records.event_id = repeated.event_id
    qualify row_number() over (partition by tenant_id, event_id order by received_at, file, line_number) = 1
),

order_keepers as (
    select
        tenant_id,
        order_id,
        min_by(event_id, (list_position({{ var('sources') }}, source), occurred_at, event_id)) as kept_event_id,
        min_by(source, (list_position({{ var('sources') }}, source), occurred_at, event_id)) as kept_source
    from firsts
    where event_type = 'purchase' and order_id is not null
    group by all
    having count(distinct source) > 1
),

same_orders as (
    select firsts.file_seq, firsts.line_number, order_keepers.kept_event_id
    from firsts
    inner join order_keepers
        on firsts.tenant_id = order_keepers.tenant_id and firsts.order_id = order_keepers.order_id
    where firsts.event_type = 'purchase' and firsts.source != order_keepers.kept_source
),

{# By the record's place: a join by the order would compare all events that have none with each other. #}
marked as (
    select
        firsts.* exclude (received_at, file),
        same_orders.kept_event_id as same_order_as
    from firsts
    left join same_orders
        on firsts.file_seq = same_orders.file_seq and firsts.line_number = same_orders.line_number
)

select * from marked
