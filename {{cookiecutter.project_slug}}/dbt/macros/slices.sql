{#
    Features in slices of so many sessions: an aggregate's states that hold texts stay in memory, and DuckDB cannot write them to
    disk. The first slice is the model's own statement, the others run it again.
#}
{% macro first_slice() -%}
    {%- set asked = ref('int_asked_events') -%}
    {%- if execute -%}
        {%- do run_query(
            "set variable slices = (select 1 + count(*) // " ~ var('sessions_at_once') ~ " from " ~ asked ~ " where event_number = 1)"
        ) -%}
        set variable slice = 0
    {%- endif -%}
{%- endmacro %}

{% macro other_slices() -%}
    {%- if execute -%}
        {%- for slice in range(1, run_query("select getvariable('slices')").rows[0][0]) -%}
            {%- do run_query("set variable slice = " ~ slice) -%}
            {%- do run_query("insert into " ~ this ~ " by name select * from (" ~ model.compiled_code ~ ")") -%}
        {%- endfor -%}
        reset variable slices
    {%- endif -%}
{%- endmacro %}
