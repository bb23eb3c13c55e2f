{#
    Each file's number of lines, counted in its bytes, beside what became of them. A line that is
    made into several rows has `further_count` rows after its first. The build holds nothing back;
    publication counts the events of tenants that wait (snapshots/held_tables.py).
    The run stops unless `missing_count` is zero.
#}
with files as (
    select * from {{ ref('landed_files') }}
),

records as (
    select file, 'event' as status from {{ ref('events') }}
    union all
    select file, 'duplicate' as status from {{ ref('duplicate_events') }}
    union all
    select file, 'quarantined' as status from {{ ref('quarantined_events') }}
    union all
    select file, 'left_out' as status from {{ ref('int_records') }}
    where reason = 'left_out'
    union all
    select file, 'further' as status from {{ ref('int_records') }}
    where part > 1
),

record_counts as (
    select
        file,
        count(*) filter (where status = 'event') as event_count,
        count(*) filter (where status = 'duplicate') as duplicate_count,
        count(*) filter (where status = 'quarantined') as quarantined_count,
        count(*) filter (where status = 'left_out') as left_out_count,
        count(*) filter (where status = 'further') as further_count
    from records
    group by all
),

file_counts as (
    select
        files.source,
        files.file,
        files.arrived_on,
        files.line_count,
        files.blank_count,
        coalesce(record_counts.event_count, 0) as event_count,
        coalesce(record_counts.duplicate_count, 0) as duplicate_count,
        coalesce(record_counts.quarantined_count, 0) as quarantined_count,
        coalesce(record_counts.left_out_count, 0) as left_out_count,
        cast(0 as bigint) as held_back_count,
        coalesce(record_counts.further_count, 0) as further_count
    from files
    left join record_counts
        on files.file = record_counts.file
),

reconciliation as (
    select
        *,
        (
            line_count - blank_count + further_count
            - event_count - duplicate_count - quarantined_count - left_out_count
            - held_back_count
        ) as missing_count
    from file_counts
)

select * from reconciliation
