{# Every event with its session: the emitter's id, else 30 minutes of silence of one device; back-end events join or have none. #}
{%- set silence = 'interval (' ~ var('session_silence_minutes') ~ ') minute' %}
{%- set back_end_sources = "'" ~ var('back_end_sources') | join("', '") ~ "'" %}

with firsts as (
    select
        * exclude (session_id, same_order_as),
        session_id as emitter_session_id,
        coalesce('a:' || anonymous_id, 'u:' || user_id) as visitor_device,
        source in ({{ back_end_sources }}) as is_back_end
    from {{ ref('int_first_records') }}
    where same_order_as is null
),

{# A silence starts anew with each gap; equal times keep one order by the event's id. #}
starts as (
    select
        *,
        coalesce(occurred_at - lag(occurred_at) over device > {{ silence }}, true) as is_start
    from firsts
    where emitter_session_id is null and visitor_device is not null and not is_back_end
    window device as (partition by tenant_id, visitor_device order by occurred_at, event_id)
),

silences as (
    select
        * exclude (is_start),
        max(case when is_start then occurred_at end) over (
            partition by tenant_id, visitor_device order by occurred_at, event_id
        ) as silence_started_at
    from starts
),

front_end as (
    select * exclude (silence_started_at), md5(concat_ws('|', tenant_id, visitor_device, silence_started_at)) as session_id
    from silences
    union all by name
    select *, emitter_session_id as session_id
    from firsts
    where emitter_session_id is not null or (visitor_device is null and not is_back_end)
),

back_end as (
    select *
    from firsts
    where is_back_end and emitter_session_id is null
),

{# A visitor is known by the cookie or by the customer's number; what came last before the back end's event is its session. #}
seen as (
    select tenant_id, 'a:' || anonymous_id as visitor_device, session_id, occurred_at, event_id
    from front_end
    where session_id is not null and anonymous_id is not null
    union all
    select tenant_id, 'u:' || user_id as visitor_device, session_id, occurred_at, event_id
    from front_end
    where session_id is not null and user_id is not null
),

last_seen as (
    select
        back_end.tenant_id,
        back_end.event_id,
        max_by(seen.session_id, (seen.occurred_at, seen.event_id)) as session_id
    from back_end
    inner join seen
        on back_end.tenant_id = seen.tenant_id
        and back_end.visitor_device = seen.visitor_device
        and back_end.occurred_at >= seen.occurred_at
        and back_end.occurred_at - seen.occurred_at <= {{ silence }}
    group by all
),

joined as (
    select back_end.*, last_seen.session_id
    from back_end
    left join last_seen
        on back_end.tenant_id = last_seen.tenant_id and back_end.event_id = last_seen.event_id
),

sessionized as (
    select * from front_end
    union all by name
    select * from joined
),

numbered as (
    select
        file_seq,
        line_number,
        session_id,
        case when session_id is not null then row_number() over in_session end as event_number
    from sessionized
    window in_session as (partition by tenant_id, session_id order by occurred_at, event_id)
)

select * from numbered
