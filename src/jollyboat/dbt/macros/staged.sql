{#
    How a staging model is built: its rows as immutable Parquet files below data/staged, one for each
    portion of raw files (landing.py), and a view over them. A file's name is the source, a hash
    of the raw files in it, and one of the code that reads them (the model's SQL and the salt): only a
    portion without a file of that name is read. A file appears under its name when it is complete.
#}
{% materialization staged, adapter='duckdb' %}
    {%- set target = this.incorporate(type='view') -%}
    {%- set folder = jollyboat.store_root() ~ '/staged/' -%}

    {% do run_query("set variable store_root = '" ~ jollyboat.store_root() ~ "'") %}
    {% do run_query("set variable salt = (select trim(content) from read_text('" ~ jollyboat.store_root() ~ "/.salt'))") %}
    {% do run_query("create or replace temp table portions as " ~ jollyboat.portions(local_md5(compiled_code))) %}
    {%- set missing = run_query(
        "select name from portions where '" ~ folder ~ "' || name not in (select file from glob('" ~ folder ~ "*'))"
    ) -%}
    {% for name in missing.columns[0].values() %}
        {% do run_query("set variable raw_files = (select paths from portions where name = '" ~ name ~ "')") %}
        {% do run_query(
            "copy (" ~ compiled_code ~ ") to '" ~ folder ~ name
            ~ "' (format parquet, compression zstd, use_tmp_file true)"
        ) %}
    {% endfor %}

    {%- set names = run_query("select name from portions order by name").columns[0].values() -%}
    {% do drop_relation_if_exists(load_cached_relation(this)) %}
    {% call statement('main') -%}
        create view {{ target }} as
        select * from read_parquet(['{{ folder }}{{ names | join("', '" ~ folder) }}'])
    {%- endcall %}
    {% do adapter.commit() %}
    {{ return({'relations': [target]}) }}
{% endmaterialization %}

{#
    The portions of this model's source: the name of the Parquet file, and the paths of the raw files.
    Every source has one with an empty file, from which the view has its columns where nothing landed.
#}
{% macro portions(code) -%}
    select
        '{{ jollyboat.source_of(this.name) }}-'
        || md5(string_agg(concat_ws('|', file_seq, file, sha256, reader), '|' order by file_seq))
        || '-' || md5('{{ code }}' || getvariable('salt')) || '.parquet' as name,
        list(getvariable('store_root') || '/' || read_from order by file_seq) as paths
    from (
        select portion, file_seq, file, sha256, reader, read_from
        from {{ ref('landed_files') }}
        where source = '{{ jollyboat.source_of(this.name) }}' and read_from is not null
        union all by name
        select 0 as portion, 0 as file_seq, 'landed/nothing.jsonl' as read_from
    )
    group by portion
{%- endmacro %}
