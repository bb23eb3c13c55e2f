with fields as (
    select * from {{ ref('source_fields') }}
),

{# Predictions and judgements come at any time: they do not say which days the logs should have. #}
files as (
    select * from {{ ref('record_reconciliation') }}
    where not {{ jollyboat.is_feedback('source') }}
),

records as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('int_records') }}
),

clock as (
    select
        source,
        min(arrived_on) as first_on,
        max(arrived_on) as last_on,
        max(max(arrived_on)) over () as data_ends_on
    from files
    group by all
),

aspect_counts as (
    select
        source,
        field,
        arrived_on,
        'present' as aspect,
        known_count as matching_count,
        sampled_count as total_count
    from fields
    union all
    select
        source,
        field,
        arrived_on,
        'text' as aspect,
        text_count as matching_count,
        known_count as total_count
    from fields
    union all
    select
        source,
        field,
        arrived_on,
        'number' as aspect,
        number_count as matching_count,
        known_count as total_count
    from fields
),

{# For each day, the share before it and from it on. A field changed when they differ most. #}
counts_around as (
    select
        *,
        sum(matching_count) over before_it as matching_before,
        sum(total_count) over before_it as total_before,
        sum(matching_count) over from_it as matching_after,
        sum(total_count) over from_it as total_after
    from aspect_counts
    window
        before_it as (
            partition by source, field, aspect
            order by arrived_on rows between unbounded preceding and 1 preceding
        ),
        from_it as (
            partition by source, field, aspect
            order by arrived_on rows between current row and unbounded following
        )
),

largest_changes as (
    select
        *,
        matching_before / total_before as share_before,
        matching_after / total_after as share_after,
        (matching_before + matching_after) / (total_before + total_after) as share,
        sqrt(share * (1 - share) * (1 / total_before + 1 / total_after)) as standard_error
    from counts_around
    where total_before > 0 and total_after > 0
    qualify row_number() over (
        partition by source, field, aspect
        order by abs(share_after - share_before) desc, arrived_on asc
    ) = 1
),

field_changes as (
    select
        source,
        case
            when aspect != 'present' then 'retyped'
            when share_after < 0.1 * share_before then 'gone'
            when share_before < 0.1 * share_after then 'new'
            else 'nulls'
        end as kind,
        field,
        arrived_on as changed_on,
        {% for side in ['before', 'after'] -%}
        case when aspect = 'present' then '' else aspect || ' ' end
        || cast(round(100 * share_{{ side }}, 1) as string) || ' %' as was_{{ side }},
        {% endfor -%}
        round(share_before, 6) as value_before,
        round(share_after, 6) as value_after
    from largest_changes
    where
        abs(share_after - share_before) > 5 * standard_error
        and (
            abs(share_after - share_before) >= 0.2
            or (
                aspect = 'present'
                and least(share_before, share_after) < 0.1 * greatest(share_before, share_after)
            )
        )
    {# A number that became text is one change, not two. #}
    qualify kind != 'retyped' or row_number() over (
        partition by source, field, kind order by value_after desc, aspect asc
    ) = 1
),

{#
    Days without a file count as empty. The newest day may still grow: it counts when it has as
    many files as usual.
#}
days as (
    select distinct arrived_on
    from files
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
        coalesce(sum(files.line_count), 0) as line_count,
        count(files.file) as file_count
    from expected_days
    left join files
        on expected_days.source = files.source and expected_days.arrived_on = files.arrived_on
    group by all
),

usual as (
    select
        *,
        {{ jollyboat.median('file_count') }} over so_far as usual_files,
        {{ jollyboat.median('line_count') }} over so_far as usual_lines,
        count(*) over so_far as day_count,
        {{ jollyboat.median('line_count') }} over on_the_weekday as usual_on_weekday,
        count(*) over on_the_weekday as weekday_count
    from volumes
    window
        so_far as (
            partition by source order by arrived_on rows between 56 preceding and 1 preceding
        ),
        on_the_weekday as (
            partition by source, {{ jollyboat.weekday('arrived_on') }}
            order by arrived_on rows between 8 preceding and 1 preceding
        )
),

compared_volumes as (
    select
        *,
        case when weekday_count >= 3 then usual_on_weekday else usual_lines end as expected,
        case
            when weekday_count >= 3
                then line_count not between usual_on_weekday / 2 and usual_on_weekday * 2
            else
                line_count not between usual_lines / 5 and usual_lines * 5
                and (
                    weekday_count = 0
                    or line_count not between usual_on_weekday / 5 and usual_on_weekday * 5
                )
        end as is_unusual
    from usual
    where day_count >= 5 and (arrived_on < data_ends_on or file_count >= usual_files)
),

volume_changes as (
    select
        source,
        'volume' as kind,
        'records of the day' as field,
        arrived_on as changed_on,
        printf('usually %d', cast(round(expected) as bigint)) as was_before,
        cast(cast(line_count as bigint) as string) as was_after,
        cast(expected as double) as value_before,
        cast(line_count as double) as value_after
    from compared_volumes
    where is_unusual
),

{# Records count, not events: a repeat of another source's event shows a new type, too. #}
event_types as (
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
    select * from field_changes
    union all
    select * from volume_changes
    union all
    select event_types.*
    from event_types
    inner join clock
        on event_types.source = clock.source and event_types.changed_on > clock.first_on
),

dated as (
    select changes.*, changes.changed_on > clock.last_on - {{ var('change_days') }} as is_recent
    from changes
    inner join clock
        on changes.source = clock.source
)

select * from dated
