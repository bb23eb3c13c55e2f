{#
    Where the data ends. Open sessions, newest days and lookups are counted from here, not from the
    last moment, which may be one device with a wrong clock. It is the last moment of the last busy
    day, or of the day after it, which may have just begun. A busy day has at least 5 % of a usual
    day's sessions; where these are many, 10 sessions or 1 % are enough, so that the other tenants'
    days still count when the largest one leaves.
#}
{%- set clocks = ['occurred_at', 'received_at'] %}

with events as not materialized (
    select * from {{ ref('events') }}
    where not {{ jollyboat.is_feedback('source') }}
),

days as (
    {% for clock in clocks -%}
    select
        '{{ clock }}' as clock,
        cast({{ clock }} as date) as day,
        max({{ clock }}) as last_at,
        count(distinct session_id) as session_count
    from events
    group by all
    {% if not loop.last %}
    union all
    {% endif %}
    {%- endfor %}
),

usual_days as (
    select
        clock,
        quantile_disc(session_count, 0.75) as usual_count,
        greatest(0.01 * usual_count, least(0.05 * usual_count, 10)) as fewest_of_a_busy_day
    from days
    group by clock
),

last_busy_days as (
    select days.clock, max(days.day) as day
    from days
    inner join usual_days using (clock)
    where days.session_count >= usual_days.fewest_of_a_busy_day
    group by all
),

data_end as (
    select
        max(days.last_at) filter (where clock = 'occurred_at') as occurred_until,
        max(days.last_at) filter (where clock = 'received_at') as received_until
    from days
    inner join last_busy_days using (clock)
    where days.day <= last_busy_days.day + 1
)

select * from data_end
