{#
    How features are built: as a table, filled for a part of the sessions at a time (vars:
    sessions_at_once). An aggregate's states that hold texts stay in memory, and DuckDB cannot write
    them to disk. The model reads events_at_point, which lets one chunk through.
#}
{% materialization table_in_chunks, adapter='duckdb' %}
    {%- set target = this.incorporate(type='table') -%}
    {%- set count = "select 1 + count(*) // " ~ var('sessions_at_once') ~ " from " ~ ref('sessions') -%}

    {% do drop_relation_if_exists(load_cached_relation(this)) %}
    {% do run_query("set variable chunk_count = (" ~ count ~ ")") %}
    {% for chunk in range(run_query("select getvariable('chunk_count')").rows[0][0]) %}
        {% do run_query("set variable chunk = " ~ chunk) %}
        {% call statement('main') -%}
            {% if loop.first %}create table {{ target }} as{% else %}insert into {{ target }}{% endif %}
            {{ compiled_code }}
        {%- endcall %}
    {% endfor %}
    {% do run_query("reset variable chunk") %}
    {% do adapter.commit() %}
    {{ return({'relations': [target]}) }}
{% endmaterialization %}

{# Whether a session is in the chunk that is being built; each is, where none is. #}
{% macro in_chunk(session_id) -%}
    (
        getvariable('chunk') is null
        or {{ jollyboat.hash_bucket(session_id, "getvariable('chunk_count')") }} = getvariable('chunk')
    )
{%- endmacro %}
