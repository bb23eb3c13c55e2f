with catalog as (
    select *
    from read_json(
        '{{ jollyboat.store_root() }}/landed/catalog.json',
        columns = {
            'reader': 'VARCHAR',
            'files': 'STRUCT(
                file_seq bigint, source varchar, file varchar, arrived_on varchar,
                line_count bigint, blank_count bigint, portion bigint,
                read_from varchar, damage varchar, is_accepted boolean, sha256 varchar
            )[]'
        },
        maximum_object_size = 1000000000
    )
),

entries as (
    select reader, unnest(files, recursive := true) -- noqa: AL03
    from catalog
),

files as (
    select
        file_seq,
        source,
        file,
        cast(arrived_on as date) as arrived_on,
        line_count,
        blank_count,
        portion,
        read_from,
        damage,
        coalesce(is_accepted, false) as is_accepted,
        sha256,
        reader
    from entries
)

select * from files
