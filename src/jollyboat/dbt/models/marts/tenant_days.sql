{#
    The records of each tenant and day, beside its usual number and what is quarantined.

    Collapsed: the newest complete day has less than a tenth of the records of the least usual day,
    where 50 records are usual. A day is complete when a busy day of the source follows, or when the
    other tenants have three quarters of their usual records: late records after all others say
    nothing. Usual is the smaller of two medians: of the last 56 days and of the same weekday. Days
    with less than a tenth of that are not usual. So neither a weekday without records nor one busy
    day fires, and an outage hides no later one. A tenant that starts midway is judged after a week.
    A collapse becomes usual when half of the days are so, or when a person accepts it.

    Quarantined: since some day, more than 20 records and more than 20 % of all are quarantined.
#}
with events as {{ jollyboat.not_materialized() }} (
    select tenant_id, source, arrived_on
    from {{ ref('int_records') }}
    where reason is null and not {{ jollyboat.is_feedback('source') }}
),

quarantined as (
    select tenant_id, source, arrived_on, reason
    from {{ ref('quarantined_events') }}
    where
        tenant_id is not null
        and arrived_on is not null
        and not {{ jollyboat.is_feedback('source') }}
),

accepted_days as (
    select * from {{ jollyboat.accepted_days() }}
),

records as (
    select *, cast(null as string) as reason
    from events
    union all
    select * from quarantined
),

counts as (
    select
        tenant_id,
        source,
        arrived_on,
        count(*) as record_count,
        count(reason) as quarantined_count,
        mode() within group (order by reason) as quarantine_reason
    from records
    group by all
),

{# A folder of a day to come is a mistake of one tenant: no other tenant is expected to have it. #}
source_days as (
    select
        source,
        arrived_on,
        cast(sum(record_count) as bigint) as total_count,
        {{ jollyboat.quantile('sum(record_count)', 0.75) }} over (
            partition by source
        ) as usual_total
    from counts
    where arrived_on <= current_date + 1
    group by source, arrived_on
),

last_busy_days as (
    select source, max(arrived_on) as last_on
    from source_days
    where 20 * total_count >= usual_total
    group by source
),

first_days as (
    select tenant_id, source, min(arrived_on) as first_on
    from counts
    group by tenant_id, source
),

expected_days as (
    select first_days.tenant_id, source_days.source, source_days.arrived_on
    from first_days
    inner join source_days
        on first_days.source = source_days.source
        and first_days.first_on <= source_days.arrived_on
    union
    select tenant_id, source, arrived_on
    from counts
),

days as (
    select
        expected_days.tenant_id,
        expected_days.source,
        expected_days.arrived_on,
        coalesce(counts.record_count, 0) as record_count,
        coalesce(counts.quarantined_count, 0) as quarantined_count,
        counts.quarantine_reason,
        coalesce(accepted_days.is_accepted, false) as is_accepted,
        source_days.total_count - coalesce(counts.record_count, 0) as others_count,
        expected_days.arrived_on < last_busy_days.last_on as is_over
    from expected_days
    left join counts using (tenant_id, source, arrived_on)
    left join source_days using (source, arrived_on)
    left join last_busy_days using (source)
    left join accepted_days
        on expected_days.source = accepted_days.source
        and expected_days.arrived_on = accepted_days.arrived_on
        and expected_days.tenant_id = coalesce(accepted_days.tenant_id, expected_days.tenant_id)
),

compared as (
    select
        *,
        case
            when count(*) over so_far >= 7
                then
                    least(
                        {{ jollyboat.median('record_count') }} over so_far,
                        {{ jollyboat.median('record_count') }} over on_the_weekday,
                        min(case when is_accepted then record_count end) over so_far
                    )
        end as usual_count,
        array_agg(record_count) over so_far as counts_before,
        is_over or others_count >= 0.75 * least(
            {{ jollyboat.median('others_count') }} over so_far,
            {{ jollyboat.median('others_count') }} over on_the_weekday
        ) and others_count > 0 as is_complete,
        cast(
            sum(quarantined_count) filter (where not is_accepted) over since_it as bigint
        ) as quarantined_since,
        cast(
            sum(record_count) filter (where not is_accepted) over since_it as bigint
        ) as record_since
    from days
    window
        so_far as (
            partition by tenant_id, source
            order by arrived_on rows between 56 preceding and 1 preceding
        ),
        on_the_weekday as (
            partition by tenant_id, source, {{ jollyboat.weekday('arrived_on') }}
            order by arrived_on rows between 8 preceding and 1 preceding
        ),
        since_it as (
            partition by tenant_id, source
            order by arrived_on rows between current row and unbounded following
        )
),

judged as (
    select
        *,
        coalesce(
            usual_count >= 50
            and record_count < 0.1 * {{ jollyboat.least_element(
                'counts_before', 'each_count -> each_count >= 0.1 * usual_count'
            ) }},
            false
        ) as is_low,
        (
            not is_accepted
            and quarantined_count > 0
            and quarantined_since > greatest(20, 0.2 * record_since)
        ) as is_quarantined
    from compared
),

{#
    A day that is not complete counts once it shows that the records have come back. A tenant's rows
    do not say how many records the others have.
#}
with_newest as (
    select
        * {{ jollyboat.without(
            'others_count', 'is_over', 'is_complete', 'counts_before', 'is_low'
        ) }},
        (
            is_low and not is_accepted and arrived_on = max(
                case when is_complete or not is_low then arrived_on end
            ) over (partition by tenant_id, source)
        ) as is_collapsed
    from judged
)

select * from with_newest
