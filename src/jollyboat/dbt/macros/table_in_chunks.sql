{#
    A table of features that is filled for one chunk of the entities at a time: as many as there are
    chunks of `vars: sessions_at_once` rows in the model that `rows_of` in its config names (default
    sessions). DuckDB keeps an aggregate's texts in memory and cannot write them to disk. The model
    reads a view that has the events of one chunk.
#}
{% materialization table_in_chunks, adapter='duckdb' %}
    {%- set target = this.incorporate(type='table') -%}
    {%- set count = (
        "select 1 + count(*) // " ~ var('sessions_at_once') ~ " from "
        ~ this.incorporate(path={'identifier': config.get('rows_of', 'sessions')})
    ) -%}

    {% do drop_relation_if_exists(load_cached_relation(this)) %}
    {% do run_query("set variable chunk_count = (" ~ count ~ ")") %}
    {%- set chunk_count = run_query("select getvariable('chunk_count')").rows[0][0] -%}
    {% for chunk in range(chunk_count) %}
        {% do run_query("set variable chunk = " ~ chunk) %}
        {% call statement('main') -%}
            {{ 'create table ' ~ target ~ ' as' if loop.first else 'insert into ' ~ target }}
            {{ compiled_code }}
        {%- endcall %}
    {% endfor %}
    {% do run_query("reset variable chunk") %}
    {% do adapter.commit() %}
    {{ return({'relations': [target]}) }}
{% endmaterialization %}

{# Spark keeps aggregates on disk where memory ends: it fills the table at once. #}
{% materialization table_in_chunks, adapter='spark' %}
    {%- set target = this.incorporate(type='table') -%}
    {% do adapter.drop_relation(target) %}
    {% call statement('main') -%}
        {{ create_table_as(false, target, compiled_code) }}
    {%- endcall %}
    {{ return({'relations': [target]}) }}
{% endmaterialization %}

{# Whether a session is in the chunk that is being built; true where there are no chunks. #}
{% macro in_chunk(session_id) -%}
    {{ adapter.dispatch('in_chunk', 'jollyboat')(session_id) }}
{%- endmacro %}
{% macro spark__in_chunk(session_id) %}true{% endmacro %}
{% macro default__in_chunk(session_id) -%}
    {%- set chunk = jollyboat.hash_bucket(session_id, "getvariable('chunk_count')") -%}
    (getvariable('chunk') is null or {{ chunk }} = getvariable('chunk'))
{%- endmacro %}
