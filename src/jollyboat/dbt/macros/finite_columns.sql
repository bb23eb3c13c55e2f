{#
    A table's columns but the keys, with null for what is infinite or no number (1 / 0, 0 / 0). In
    unit tests no table has columns yet: there it is all columns.
#}
{% macro finite_columns(table, keys=[], prefix='') -%}
    {%- set columns = (adapter.get_columns_in_relation(table) if execute else [])
        | rejectattr('name', 'in', keys) | list -%}
    {%- for column in columns %}
    {%- set name = prefix ~ column.quoted %}
    {{ ',' if not loop.first }}
    {%- if column.dtype | upper in ['DOUBLE', 'FLOAT'] %}
    case
        when abs({{ name }}) < cast('infinity' as double) then {{ name }}
    end as {{ column.quoted }}
    {%- else %}
    {{ name }}
    {%- endif %}
    {%- else -%}
    {{ prefix }}*{% if keys %} {{ jollyboat.without(*keys) }}{% endif %}
    {%- endfor %}
{%- endmacro %}
