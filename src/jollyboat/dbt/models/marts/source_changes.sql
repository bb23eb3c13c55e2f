with fields as (
    select * from {{ ref('source_fields') }}
),

{# What this project feeds back comes when it likes, and says nothing of the days that the sources' logs should have. #}
account as (
    select * from {{ ref('record_reconciliation') }}
    where not {{ jollyboat.is_feedback('source') }}
),

records as not materialized (
    select * from {{ ref('int_records') }}
),

clock as (
    select source, min(arrived_on) as first_on, max(arrived_on) as last_on, max(max(arrived_on)) over () as data_ends_on
    from account
    group by all
),

aspects as (
    select source, field, arrived_on, 'known' as aspect, known_count as part, sampled_count as whole from fields
    union all
    select source, field, arrived_on, 'text' as aspect, text_count as part, known_count as whole from fields
    union all
    select source, field, arrived_on, 'number' as aspect, number_count as part, known_count as whole from fields
),

{# For each day, the share before it and from it on; the day on which they differ most is when it changed. #}
summed as (
    select
        *,
        sum(part) over before_it as part_before,
        sum(whole) over before_it as whole_before,
        sum(part) over from_it as part_after,
        sum(whole) over from_it as whole_after
    from aspects
    window
        before_it as (
            partition by source, field, aspect order by arrived_on rows between unbounded preceding and 1 preceding
        ),
        from_it as (
            partition by source, field, aspect order by arrived_on rows between current row and unbounded following
        )
),

compared as (
    select
        *,
        part_before / whole_before as share_before,
        part_after / whole_after as share_after,
        (part_before + part_after) / (whole_before + whole_after) as share,
        sqrt(share * (1 - share) * (1 / whole_before + 1 / whole_after)) as chance
    from summed
    where whole_before > 0 and whole_after > 0
    qualify row_number() over (
        partition by source, field, aspect order by abs(share_after - share_before) desc, arrived_on asc
    ) = 1
),

moved as (
    select
        source,
        case
            when aspect != 'known' then 'retyped'
            when share_after < 0.1 * share_before then 'gone'
            when share_before < 0.1 * share_after then 'new'
            else 'nulls'
        end as kind,
        field,
        arrived_on as changed_on,
        {% for side in ['before', 'after'] -%}
        case when aspect = 'known' then '' else aspect || ' ' end || cast(round(100 * share_{{ side }}, 1) as varchar) || ' %'
            as was_{{ side }},
        {% endfor -%}
        round(share_before, 6) as value_before,
        round(share_after, 6) as value_after
    from compared
    where
        abs(share_after - share_before) > 5 * chance
        and (
            abs(share_after - share_before) >= 0.2
            or (aspect = 'known' and least(share_before, share_after) < 0.1 * greatest(share_before, share_after))
        )
    {# A number that became text is one change, not two. #}
    qualify kind != 'retyped' or row_number() over (partition by source, field, kind order by value_after desc, aspect asc) = 1
),

{# Days without a file count as empty; the newest day counts once as many files as usual are there, for it may still grow. #}
days as (
    select distinct arrived_on
    from account
),

expected_days as (
    select clock.source, days.arrived_on, clock.data_ends_on
    from clock
    inner join days
        on clock.first_on <= days.arrived_on
),

volumes as (
    select
        expected_days.*,
        coalesce(sum(account.line_count), 0) as line_count,
        count(account.file) as file_count
    from expected_days
    left join account
        on expected_days.source = account.source and expected_days.arrived_on = account.arrived_on
    group by all
),

usual as (
    select
        *,
        median(file_count) over so_far as usual_files,
        median(line_count) over so_far as usual_lines,
        count(*) over so_far as day_count,
        median(line_count) over on_the_weekday as usual_on_weekday,
        count(*) over on_the_weekday as weekday_count
    from volumes
    window
        so_far as (partition by source order by arrived_on rows between 56 preceding and 1 preceding),
        on_the_weekday as (
            partition by source, isodow(arrived_on) order by arrived_on rows between 8 preceding and 1 preceding
        )
),

judged as (
    select
        *,
        case when weekday_count >= 3 then usual_on_weekday else usual_lines end as expected,
        case
            when weekday_count >= 3 then line_count not between usual_on_weekday / 2 and usual_on_weekday * 2
            else
                line_count not between usual_lines / 5 and usual_lines * 5
                and (weekday_count = 0 or line_count not between usual_on_weekday / 5 and usual_on_weekday * 5)
        end as is_far
    from usual
    where day_count >= 5 and (arrived_on < data_ends_on or file_count >= usual_files)
),

far as (
    select
        source,
        'volume' as kind,
        'records of the day' as field,
        arrived_on as changed_on,
        format('usually {:.0f}', expected) as was_before,
        format('{:.0f}', cast(line_count as double)) as was_after,
        cast(expected as double) as value_before,
        cast(line_count as double) as value_after
    from judged
    where is_far
),

{# Of records, not of events: what another source told first is seen here all the same. #}
types as (
    select
        source,
        'event_type' as kind,
        event_type as field,
        min(arrived_on) as changed_on,
        'never seen' as was_before,
        count(*) || ' records' as was_after,
        0.0 as value_before,
        cast(count(*) as double) as value_after
    from records
    where reason is null
    group by source, event_type
),

changes as (
    select * from moved
    union all by name
    select * from far
    union all by name
    select types.*
    from types
    inner join clock
        on types.source = clock.source and types.changed_on > clock.first_on
),

dated as (
    select changes.*, changes.changed_on > clock.last_on - {{ var('change_days') }} as is_recent
    from changes
    inner join clock
        on changes.source = clock.source
)

select * from dated
