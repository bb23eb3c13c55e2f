{#
    Features in slices of so many sessions: an aggregate's states that hold texts stay in memory, and DuckDB cannot write them to
    disk. The first slice is the model's own statement, the others run it again.
#}
{% macro first_slice() -%}
    set variable slice = 0
{%- endmacro %}

{% macro other_slices() -%}
    {%- set asked = ref('int_asked_events') -%}
    {%- if execute -%}
        {%- for slice in range(1, 1 + (run_query("select max(slice) from " ~ asked).rows[0][0] or 0)) -%}
            {%- do run_again("set variable slice = " ~ slice) -%}
        {%- endfor -%}
        reset variable slice
    {%- endif -%}
{%- endmacro %}

{# The model's own statement once more, with another setting. #}
{% macro run_again(setting) -%}
    {%- do run_query(setting) -%}
    {%- do run_query("insert into " ~ this ~ " by name select * from (" ~ model.compiled_code ~ ")") -%}
{%- endmacro %}
