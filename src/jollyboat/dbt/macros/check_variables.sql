{#
    Stop a build by hand whose lists in vars are no lists or empty. `make data` checks all variables
    before it starts dbt.
#}
{% macro check_variables() -%}
    {%- for name in ['sources', 'prediction_points'] %}
    {%- set value = var(name) %}
    {%- if value is string or value is not iterable or not value %}
    {{ exceptions.raise_compiler_error(
        'dbt/dbt_project.yml: vars: ' ~ name ~ ' is ' ~ value ~ '; it should be a list of at least one'
    ) }}
    {%- endif %}
    {%- endfor %}
{%- endmacro %}
