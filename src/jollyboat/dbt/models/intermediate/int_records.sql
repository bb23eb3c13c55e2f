{{ config(materialized='view') }}

{% for source in var('sources') + var('feedback_sources') -%}
select * from {{ ref('stg_' ~ source ~ '__events') }}
{% if not loop.last %}
union all by name
{% endif %}
{%- endfor %}
