{#
    The days that `jollyboat land --accept` wrote. An entry without a tenant, as earlier versions
    wrote it, is about all tenants of the source.
#}
{% macro accepted_days() -%}
    {{ adapter.dispatch('accepted_days', 'jollyboat')() }}
{%- endmacro %}

{# The build on Spark brings these rows as a table (warehouse/spark_build.py). #}
{% macro spark__accepted_days() %}{{ target.schema }}.accepted_days{% endmacro %}

{% macro default__accepted_days() -%}
    (
        select source, arrived_on, tenant_id, true as is_accepted
        from read_json(
            '{{ jollyboat.store_root() }}/accepted_days.json',
            columns = {
                'source': 'VARCHAR', 'arrived_on': 'DATE', 'tenant_id': 'VARCHAR'
            }
        )
    )
{%- endmacro %}
