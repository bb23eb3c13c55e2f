{%- set back_end_sources = "'" ~ var('back_end_sources') | join("', '") ~ "'" %}

with records as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('int_records') }}
    where
        reason is null
        and source not in ({{ back_end_sources }})
        and not {{ jollyboat.is_feedback('source') }}
),

accepted_days as (
    select * from {{ jollyboat.accepted_days() }}
),

id_counts as (
    select
        tenant_id,
        source,
        arrived_on,
        count(*) as event_count,
        count(distinct coalesce(session_id, anonymous_id, user_id)) as visitor_count,
        count(coalesce(anonymous_id, user_id, session_id)) as visitor,
        count(anonymous_id) as anonymous_id,
        count(user_id) as user_id
    from records
    group by all
    having count(*) >= 20
),

by_column as (
    select * from id_counts
    unpivot (known_count for id_column in (visitor, anonymous_id, user_id))
),

shares as (
    select
        by_column.tenant_id,
        by_column.source,
        by_column.arrived_on,
        by_column.id_column,
        by_column.event_count,
        by_column.visitor_count,
        1 - by_column.known_count / by_column.event_count as missing_share,
        coalesce(accepted_days.is_accepted, false) as is_accepted
    from by_column
    left join accepted_days
        on by_column.source = accepted_days.source
        and by_column.arrived_on = accepted_days.arrived_on
        and by_column.tenant_id = coalesce(accepted_days.tenant_id, by_column.tenant_id)
),

{# A share that was accepted once is usual from then on. #}
usual as (
    select
        *,
        greatest(
            {{ jollyboat.median('missing_share') }} over so_far,
            max(case when is_accepted then missing_share end) over so_far
        ) as usual_share,
        {{ jollyboat.median('visitor_count') }} over so_far as usual_visitor_count
    from shares
    window so_far as (
        partition by tenant_id, source, id_column
        order by arrived_on rows between 56 preceding and 1 preceding
    )
),

{#
    An id that is often missing, as an account is, may be missing more often. A visitor may not.
    At a small tenant one visitor has many of a day's events: chance is of visitors, not of events,
    and accounts count where 50 visitors a day are usual.
#}
judged as (
    select
        *,
        (missing_share - coalesce(usual_share, 0)) * event_count >= 20
        and (id_column != 'user_id' or usual_visitor_count >= 50)
        and case
            when usual_share <= 0.1
                then
                    missing_share >= usual_share + 0.1
                    and missing_share - usual_share
                    >= 5 * sqrt(
                        usual_share * (1 - usual_share) / greatest(usual_visitor_count, 1)
                    )
            else
                id_column = 'visitor'
                and missing_share >= 0.9
                and missing_share >= coalesce(usual_share, 0) + 0.1
        end as is_unusual
    from usual
)

select * from judged
