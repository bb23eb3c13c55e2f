{{ config(materialized='view') }}

{#
    Of a build in shards (jollyboat/warehouse/shards.py) the records of the shard's tenants. All
    models by tenant read this one, so they need no condition of their own.
#}
{% for source in var('sources') + var('feedback_sources') -%}
select
    source,
    file,
    file_seq,
    arrived_on,
    line_number,
    part,
    ignored_ids,
    reason,
    line,
    structure,
    unread_price,
    unread_quantity,
    {{ jollyboat.canonical_columns() | join(',\n    ') }}
from {{ ref('stg_' ~ source ~ '__events') }}
{% if var('in_shard', false) -%}
where tenant_id in (select tenant_id from shard_tenants)
{% endif -%}
{% if not loop.last %}
union all
{% endif %}
{%- endfor %}
