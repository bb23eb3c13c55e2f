{# Per file: the lines counted over its bytes beside what became of them; `missing` is zero or the run stops. #}
with files as (
    select * from {{ ref('landed_files') }}
),

fates as (
    select file, 'event' as fate from {{ ref('events') }}
    union all
    select file, 'duplicate' as fate from {{ ref('duplicate_events') }}
    union all
    select file, 'quarantined' as fate from {{ ref('quarantined_events') }}
),

counted as (
    select
        file,
        count(*) filter (where fate = 'event') as event_count,
        count(*) filter (where fate = 'duplicate') as duplicate_count,
        count(*) filter (where fate = 'quarantined') as quarantined_count
    from fates
    group by all
),

account as (
    select
        files.source,
        files.file,
        files.arrived_on,
        files.line_count,
        files.blank_count,
        coalesce(counted.event_count, 0) as event_count,
        coalesce(counted.duplicate_count, 0) as duplicate_count,
        coalesce(counted.quarantined_count, 0) as quarantined_count
    from files
    left join counted
        on files.file = counted.file
),

balanced as (
    select
        *,
        line_count - blank_count - event_count - duplicate_count - quarantined_count as missing_count
    from account
)

select * from balanced
