{#
    Builds a staging model: immutable Parquet files below data/staged, one for each portion of raw
    files (landing.py), and a view over them. A file's name is the source, a hash of its raw files
    and a hash of the code that reads them (the model's SQL and the salt). Only a portion without
    such a file is read. A file gets its name when it is complete. The paths in the view begin at
    the root, so that it finds its files from any working directory.
#}
{% materialization staged, adapter='duckdb' %}
    {%- set target = this.incorporate(type='view') -%}
    {%- set root = run_query(
        "select parse_dirpath(path) from duckdb_databases() where database_name = '"
        ~ this.database ~ "'"
    ).rows[0][0] | replace("'", "''") -%}
    {%- set folder = root ~ '/staged/' -%}
    {%- set salt_file = root ~ '/.salt' -%}
    {%- set salt = "select trim(content) from read_text('" ~ salt_file ~ "')" -%}
    {%- set portions = jollyboat.portions(local_md5(compiled_code)) -%}

    {% do run_query("set variable store_root = '" ~ root ~ "'") %}
    {% do run_query("set variable salt = (" ~ salt ~ ")") %}
    {% do run_query("create or replace temp table portions as " ~ portions) %}
    {%- set missing = run_query(
        "select name from portions where '" ~ folder ~ "' || name not in "
        ~ "(select file from glob('" ~ folder ~ "*'))"
    ) -%}
    {% for name in missing.columns[0].values() %}
        {%- set paths = "select paths from portions where name = '" ~ name ~ "'" -%}
        {% do run_query("set variable raw_files = (" ~ paths ~ ")") %}
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
    The portions of this model's source: each Parquet file's name and the paths of its raw files.
    One portion has an empty file, so that the view has its columns before anything lands.
    A shard of files (jollyboat/warehouse/shards.py) has some of the portions.
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
            and portion % {{ var('file_shards', 1) }} = {{ var('file_shard', 0) }}
        union all by name
        select 0 as portion, 0 as file_seq, 'landed/nothing.jsonl' as read_from
    )
    group by portion
{%- endmacro %}
