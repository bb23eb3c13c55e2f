{# The source of a staging model is in its name: stg_<source>__events. #}
{% macro source_of(model_name) -%}
    {{ model_name.removeprefix('stg_').removesuffix('__events') }}
{%- endmacro %}

{# Whether an event is this project's own: a prediction says nothing of when the logs end or what a session is. #}
{% macro is_feedback(column) -%}
    ({{ column }} in ('{{ var('feedback_sources') | join("', '") }}'))
{%- endmacro %}

{#
    Before a staging model runs: the files its table has not read yet, as a session variable that the model's scan reads. Lines are held in
    memory while they are told apart (see raw_records), so of many files those of so many lines at a time; `other_files` reads the others.
#}
{% macro list_new_files() -%}
    {%- if execute -%}
        set variable salt = (select trim(content) from read_text('{{ store_root() }}/.salt'));
        set variable portions = (
            select list(files order by portion)
            from (
                select portion, list(path order by file_seq) as files
                from (
                    select
                        file_seq,
                        '{{ store_root() }}/' || read_from as path,
                        (sum(line_count) over (order by file_seq) - line_count) // {{ var('lines_at_once') }} as portion
                    from {{ ref('landed_files') }}
                    where source = '{{ source_of(this.name) }}'
                    and read_from is not null
                    {%- if is_incremental() %}
                    and file_seq > (select coalesce(max(file_seq), 0) from {{ this }})
                    {%- endif %}
                )
                group by portion
            )
        );
        set variable new_files = cast(getvariable('portions')[1] as varchar[])
    {%- endif -%}
{%- endmacro %}

{# After it: the model's own statement again for each other portion. #}
{% macro other_files() -%}
    {%- if execute -%}
        {%- for portion in range(2, run_query("select 1 + coalesce(len(getvariable('portions')), 0)").rows[0][0]) -%}
            {%- do run_again("set variable new_files = getvariable('portions')[" ~ portion ~ "]") -%}
        {%- endfor -%}
        reset variable portions
    {%- endif -%}
{%- endmacro %}

{% macro store_root() -%}
    {{ env_var('STORE_ROOT', 'data') | replace("'", "''") }}
{%- endmacro %}

{#
    The new records of this model's source: source, file, file_seq, arrived_on, line_number, line (text), and record (JSON),
    which is null where the line is no JSON object; landing_reason then says so where landing has seen why.
    Lines are read as text, so that a broken line costs one line. Blank lines are no records. Numbering lines keeps a reader
    to one thread, so four share the files; a reader's lines come in the order of its files. It would keep all that follows to one
    thread, too, for DuckDB takes numbered rows to be in order up to the table: so they are held in memory first.
#}
{% macro raw_records() -%}
    {%- set readers = 4 -%}
    (
        with lines as materialized (
            {%- for reader in range(readers) %}
            select line, filename, row_number() over () as position
            from read_csv(
                list_append(
                    list_filter(getvariable('new_files'), (file, place) -> place % {{ readers }} = {{ reader }}),
                    '{{ store_root() }}/landed/nothing.jsonl'
                ),
                columns = {'line': 'VARCHAR'}, delim = e'\x1f', quote = '', escape = '', header = false, auto_detect = false,
                strict_mode = false, null_padding = true, new_line = '\n', max_line_size = 8000000, filename = true
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
            case when landed.is_copy and left(lines.line, 1) = '[' then lines.line ->> '$[1]' else lines.line end as line,
            case when landed.is_copy and left(lines.line, 1) = '[' then lines.line ->> '$[0]' end as landing_reason,
            case when left(ltrim(lines.line, e' \t'), 1) = '{' and json_valid(lines.line) then lines.line end as record
        from lines
        inner join (
            select
                files.*,
                new.path,
                files.read_from like 'landed/%' as is_copy,
                sum(files.line_count) over (partition by new.place % {{ readers }} order by new.place) - files.line_count as lines_before
            from (
                select
                    unnest(getvariable('new_files')) as path,
                    unnest(range(1, len(getvariable('new_files')) + 1)) as place
            ) as new
            inner join {{ ref('landed_files') }} as files
                on new.path = '{{ store_root() }}/' || files.read_from
        ) as landed
            on lines.filename = landed.path
        where lines.line is not null
    )
{%- endmacro %}
