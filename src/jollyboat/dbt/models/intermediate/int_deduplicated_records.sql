{#
    The record that is kept of each event, without its wide columns: the one received first. An
    event is known by tenant, source and id, so that no source displaces another's events.
    When two sources record the same order, the purchase of one source is kept.
#}
with records as {{ jollyboat.not_materialized() }} (
    select
        file_seq,
        line_number,
        part,
        source,
        tenant_id,
        event_id,
        event_type,
        occurred_at,
        sequence,
        anonymous_id,
        user_id,
        session_id,
        order_id,
        received_at,
        file
    from {{ ref('int_records') }}
    where reason is null
),

{# Few events are repeated, and only these need sorting. #}
repeated_ids as (
    select tenant_id, source, event_id
    from records
    group by all
    having count(*) > 1
),

first_records as (
    select *
    from records
    anti join repeated_ids
        on records.tenant_id = repeated_ids.tenant_id
        and records.source = repeated_ids.source
        and records.event_id = repeated_ids.event_id
    union all
    select *
    from records
    semi join repeated_ids
        on records.tenant_id = repeated_ids.tenant_id
        and records.source = repeated_ids.source
        and records.event_id = repeated_ids.event_id
    qualify row_number() over (
        partition by tenant_id, source, event_id
        order by received_at, file, line_number, part
    ) = 1
),

purchases as (
    select
        tenant_id,
        order_id,
        event_id,
        source,
        occurred_at,
        case source
            {%- for source in var('sources') %}
            when '{{ source }}' then {{ loop.index }}
            {%- endfor %}
        end as source_rank
    from first_records
    where event_type = 'purchase' and order_id is not null
),

order_keepers as (
    select
        tenant_id,
        order_id,
        min_by(event_id, (source_rank, occurred_at, event_id)) as kept_event_id,
        min_by(source, (source_rank, occurred_at, event_id)) as kept_source
    from purchases
    group by all
    having count(distinct source) > 1
),

same_orders as (
    select
        first_records.file_seq,
        first_records.line_number,
        first_records.part,
        order_keepers.kept_event_id
    from first_records
    inner join order_keepers
        on first_records.tenant_id = order_keepers.tenant_id
        and first_records.order_id = order_keepers.order_id
    where
        first_records.event_type = 'purchase'
        and first_records.source != order_keepers.kept_source
),

{# The join is by file and line: a join by order would compare all events without an order. #}
records_with_order as (
    select
        first_records.* {{ jollyboat.without('received_at') }},
        same_orders.kept_event_id as same_order_as
    from first_records
    left join same_orders
        on first_records.file_seq = same_orders.file_seq
        and first_records.line_number = same_orders.line_number
        and first_records.part = same_orders.part
)

select * from records_with_order
