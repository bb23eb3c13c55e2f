with records as (
    select * from {{ ref('int_records') }}
),

files as (
    select * from {{ ref('landed_files') }}
),

lines as (
    select source, file, line_number, reason, line, arrived_on
    from records
    where reason != 'left_out'
),

damaged_files as (
    select
        source,
        file,
        0 as line_number,
        damage as reason,
        cast(null as varchar) as line,
        arrived_on
    from files
    where damage is not null
),

quarantined as (
    select * from lines
    union all
    select * from damaged_files
)

select * from quarantined
