{# The source of a staging model is in its name: stg_<source>__events. #}
{% macro source_of(model_name) -%}
    {{ model_name.removeprefix('stg_').removesuffix('__events') }}
{%- endmacro %}

{# Whether an event is the project's own: a prediction does not say when the logs end. #}
{% macro is_feedback(column) -%}
    ({{ column }} in ('{{ var('feedback_sources') | join("', '") }}'))
{%- endmacro %}

{% macro store_root() -%}
    {{ env_var('STORE_ROOT', 'data') | replace("'", "''") }}
{%- endmacro %}

{#
    The records of the raw files of one portion (see `staged`): source, file, file_seq, arrived_on,
    line_number, line (text), record (JSON; null where the line is no JSON object) and
    landing_reason (why, where landing knows it). Blank lines are no records. Lines are read as
    text, so that a broken line costs one line. DuckDB numbers lines in one thread, so four readers
    share the files. It also keeps numbered rows in order, in one thread, up to the output:
    `materialized` avoids that. This text contains no path, because the names of the staged files
    are a hash of it.
#}
{% macro raw_records() -%}
    {%- set readers = 4 -%}
    (
        with lines as materialized (
            {%- for reader in range(readers) %}
            select line, filename, row_number() over () as position
            from read_csv(
                list_append(
                    list_filter(
                        getvariable('raw_files'),
                        (file, place) -> place % {{ readers }} = {{ reader }}
                    ),
                    getvariable('store_root') || '/landed/nothing.jsonl'
                ),
                columns = {'line': 'VARCHAR'}, delim = e'\x1f', quote = '', escape = '',
                header = false, auto_detect = false, strict_mode = false, null_padding = true,
                new_line = '\n', max_line_size = 8000000, filename = true
            )
            {%- if not loop.last %}
            union all
            {%- endif %}
            {%- endfor %}
        )

        select
            landed.source,
            landed.file,
            landed.file_seq,
            landed.arrived_on,
            cast(lines.position - landed.lines_before as bigint) as line_number,
            case
                when landed.is_copy and left(lines.line, 1) = '[' then lines.line ->> '$[1]'
                else lines.line
            end as line,
            case
                when landed.is_copy and left(lines.line, 1) = '[' then lines.line ->> '$[0]'
            end as landing_reason,
            case
                when left(ltrim(lines.line, e' \t'), 1) = '{' and json_valid(lines.line)
                    then lines.line
            end as record
        from lines
        inner join (
            select
                files.*,
                portion.path,
                files.read_from like 'landed/%' as is_copy,
                sum(files.line_count) over (
                    partition by portion.place % {{ readers }} order by portion.place
                ) - files.line_count as lines_before
            from (
                select
                    unnest(getvariable('raw_files')) as path,
                    unnest(range(1, len(getvariable('raw_files')) + 1)) as place
            ) as portion
            inner join {{ ref('landed_files') }} as files
                on portion.path = getvariable('store_root') || '/' || files.read_from
        ) as landed
            on lines.filename = landed.path
        where lines.line is not null
    )
{%- endmacro %}
