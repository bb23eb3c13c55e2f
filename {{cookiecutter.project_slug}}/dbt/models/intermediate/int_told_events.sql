{#
    Events of which the files that are new to a build hold a record, and the purchases of the orders that those are about: whether
    they are kept, and by which record, is decided anew for these alone. In a full build for all, and this is empty.
#}
{%- set before = adapter.get_relation(this.database, this.schema, 'int_first_records') if execute and not flags.FULL_REFRESH %}

with records as not materialized (
    select tenant_id, event_id, event_type, order_id, file_seq
    from {{ ref('int_records') }}
    where reason is null {{ '' if before else 'and false' }}
),

told as (
    select distinct tenant_id, event_id
    from records
    {% if before -%}
    where file_seq > (select coalesce(max(file_seq), 0) from {{ before }})
    {%- endif %}
),

{# By any record of theirs, for another may have been kept before. #}
orders as (
    select distinct records.tenant_id, records.order_id
    from records
    semi join told
        on records.tenant_id = told.tenant_id and records.event_id = told.event_id
    where records.event_type = 'purchase' and records.order_id is not null
),

decided as (
    select * from told
    union
    select records.tenant_id, records.event_id
    from records
    semi join orders
        on records.tenant_id = orders.tenant_id and records.order_id = orders.order_id
    where records.event_type = 'purchase'
)

select * from decided
