{#
    Which session an event belongs to, and its place in it. A session is the source's session id,
    else what one device does without 30 minutes of silence. A back end's event joins its visitor's
    session or has none.
#}
{%- set silence = jollyboat.minutes(var('session_silence_minutes')) %}
{%- set back_end_sources = "'" ~ var('back_end_sources') | join("', '") ~ "'" %}

with events as {{ jollyboat.not_materialized() }} (
    select
        * {{ jollyboat.without('session_id', 'same_order_as') }},
        session_id as emitter_session_id,
        coalesce('a:' || anonymous_id, 'u:' || user_id) as visitor_device,
        source in ({{ back_end_sources }}) as is_back_end
    from {{ ref('int_deduplicated_records') }}
    where same_order_as is null
),

starts as (
    select
        *,
        coalesce(occurred_at - lag(occurred_at) over device > {{ silence }}, true) as is_start
    from events
    where emitter_session_id is null and visitor_device is not null and not is_back_end
    window device as (partition by tenant_id, visitor_device order by occurred_at)
),

bursts as (
    select
        * {{ jollyboat.without('is_start') }},
        max(case when is_start then occurred_at end) over (
            partition by tenant_id, visitor_device order by occurred_at
        ) as burst_started_at
    from starts
),

front_end as (
    select
        * {{ jollyboat.without('burst_started_at') }},
        md5(concat_ws('|', tenant_id, visitor_device, burst_started_at)) as session_id
    from bursts
    union all
    select *, emitter_session_id as session_id
    from events
    where emitter_session_id is not null or (visitor_device is null and not is_back_end)
),

back_end as (
    select *
    from events
    where is_back_end and emitter_session_id is null
),

{# A visitor is recognized by the cookie or by the customer's number. #}
visits as (
    select tenant_id, 'a:' || anonymous_id as visitor_device, session_id, occurred_at
    from front_end
    where session_id is not null and anonymous_id is not null
    union all
    select tenant_id, 'u:' || user_id as visitor_device, session_id, occurred_at
    from front_end
    where session_id is not null and user_id is not null
),

last_visits as (
    select
        back_end.tenant_id,
        back_end.source,
        back_end.event_id,
        max_by(visits.session_id, (visits.occurred_at, visits.session_id)) as session_id
    from back_end
    inner join visits
        on back_end.tenant_id = visits.tenant_id
        and back_end.visitor_device = visits.visitor_device
        and back_end.occurred_at >= visits.occurred_at
        and back_end.occurred_at - visits.occurred_at <= {{ silence }}
    group by all
),

back_end_with_session as (
    select back_end.*, last_visits.session_id
    from back_end
    left join last_visits
        on back_end.tenant_id = last_visits.tenant_id
        and back_end.source = last_visits.source
        and back_end.event_id = last_visits.event_id
),

sessionized as ( -- noqa: ST03
    select * from front_end
    union all
    select * from back_end_with_session
),

numbered as (
    select
        file_seq,
        line_number,
        part,
        session_id,
        case when session_id is not null then row_number() over in_session end as event_number
    from sessionized
    window in_session as (
        partition by tenant_id, session_id order by {{ jollyboat.event_order() }}
    )
)

select * from numbered
