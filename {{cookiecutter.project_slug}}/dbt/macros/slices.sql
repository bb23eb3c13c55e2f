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
        {%- set slice_count = run_query("select max(slice_count) from " ~ asked).rows[0][0] -%}
        {%- for slice in range(1, slice_count or 1) -%}
            {%- do run_query("set variable slice = " ~ slice) -%}
            {%- do run_query("insert into " ~ this ~ " by name select * from (" ~ model.compiled_code ~ ")") -%}
        {%- endfor -%}
        reset variable slice
    {%- endif -%}
{%- endmacro %}
