{#
    The last moment of the last busy day, or of the day after it, which may have just begun, by each
    clock; over all rows of the CTE `events`, or for each tenant. A busy day has at least 5 % of a
    usual day's sessions; where these are many, 10 sessions or 1 % are enough, so that the other
    tenants' days still count when the largest one leaves. Events of days to come, as in a folder
    with a wrong day, count only where all events are so.
#}
{% macro data_end(keys=[]) -%}
    {%- set clocks = ['occurred_at', 'received_at'] -%}
    {%- set today = 'current_date + ' ~ (var('future_tolerance_days') + 1) -%}
    {%- set same_clock = (['clock'] + keys) | join(', ') -%}
    with days as (
        {% for clock in clocks -%}
        select
            '{{ clock }}' as clock,
            {% for key in keys %}{{ key }}, {% endfor -%}
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

    past_days as (
        select *
        from days
        window same_clock as (partition by {{ same_clock }})
        qualify day <= {{ today }} or min(day) over same_clock > {{ today }}
    ),

    busy_days as (
        select
            *,
            {{ jollyboat.quantile('session_count', 0.75) }} over same_clock as usual_count,
            100 * session_count >= greatest(
                usual_count, least(5 * usual_count, 1000)
            ) as is_busy
        from past_days
        window same_clock as (partition by {{ same_clock }})
    ),

    last_days as (
        select
            *,
            max(case when is_busy then day end) over (
                partition by {{ same_clock }}
            ) as last_busy_day
        from busy_days
    )

    select
        {% for key in keys %}{{ key }}, {% endfor -%}
        max(last_at) filter (where clock = 'occurred_at') as occurred_until,
        max(last_at) filter (where clock = 'received_at') as received_until
    from last_days
    where day <= last_busy_day + 1
    {%- if keys %}
    group by {{ keys | join(', ') }}
    {%- endif %}
{%- endmacro %}
