{#
    Events with their session and their place in it: the emitter's id, else 30 minutes of silence of one device; back-end events
    join or have none. A full build has all of them here; another only those that it adds or that are elsewhere than before.
#}
{%- set silence = 'interval (' ~ var('session_silence_minutes') ~ ') minute' %}
{%- set back_end_sources = "'" ~ var('back_end_sources') | join("', '") ~ "'" %}
{%- set before = events_before() %}

with firsts as not materialized (
    select
        * exclude (session_id, same_order_as),
        session_id as emitter_session_id,
        coalesce('a:' || anonymous_id, 'u:' || user_id) as visitor_device,
        source in ({{ back_end_sources }}) as is_back_end
    from {{ ref('int_first_records') }}
    where same_order_as is null
),

{% if before -%}
known as not materialized (
    select * from {{ before }} as known
),

told as (
    select * from {{ told_events() }}
),

{# From the few to the many: so the planner keeps the few in memory. #}
kept as (
    select firsts.*
    from told
    inner join firsts on told.tenant_id = firsts.tenant_id and told.event_id = firsts.event_id
),

stood as (
    select known.file_seq, known.line_number, known.tenant_id, known.session_id, known.anonymous_id, known.user_id
    from told
    inner join known on told.tenant_id = known.tenant_id and told.event_id = known.event_id
),

added as (
    select kept.*
    from kept
    anti join stood on kept.file_seq = stood.file_seq and kept.line_number = stood.line_number
),

gone as (
    select stood.*
    from stood
    anti join kept on stood.file_seq = kept.file_seq and stood.line_number = kept.line_number
),

{# Whose silences may be others now; then who is known by the same accounts, for whom the back end's events may join others. #}
moved as (
    select tenant_id, unnest({{ visitor_keys() }}) as key from added
    union
    select tenant_id, unnest({{ visitor_keys() }}) as key from gone
),

near as (
    select * from moved
    union
    select firsts.tenant_id, 'u:' || firsts.user_id as key
    from firsts
    semi join moved on firsts.tenant_id = moved.tenant_id and firsts.visitor_device = moved.key
    where firsts.user_id is not null
),

devices as (
    select * from near
    union
    select firsts.tenant_id, firsts.visitor_device as key
    from firsts
    semi join near on firsts.tenant_id = near.tenant_id and 'u:' || firsts.user_id = near.key
    where firsts.anonymous_id is not null and not firsts.is_back_end
),

asked as (
    select firsts.*
    from firsts
    semi join devices on firsts.tenant_id = devices.tenant_id and firsts.visitor_device = devices.key
    where not firsts.is_back_end
    union all
    select firsts.*
    from firsts
    semi join near on firsts.tenant_id = near.tenant_id and firsts.visitor_device = near.key
    where firsts.is_back_end
    union all
    select * from added
    where visitor_device is null
),
{%- else -%}
asked as not materialized (
    select * from firsts
),
{%- endif %}

{# A silence starts anew with each gap; equal times keep one order by the event's id. #}
starts as (
    select
        *,
        coalesce(occurred_at - lag(occurred_at) over device > {{ silence }}, true) as is_start
    from asked
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
    from asked
    where emitter_session_id is not null or (visitor_device is null and not is_back_end)
),

back_end as (
    select *
    from asked
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

sessionized as ( -- noqa: ST03
    select * from front_end
    union all by name
    select * from joined
),

{% if before -%}
{# Where each stood before; a session that an event has left or joined is numbered anew, its other events with it. #}
placed as (
    select
        sessionized.*,
        known.session_id as session_before,
        known.event_number as number_before,
        known.file_seq is null or coalesce(sessionized.session_id, '') != coalesce(known.session_id, '') as has_moved
    from sessionized
    left join known
        on sessionized.file_seq = known.file_seq and sessionized.line_number = known.line_number
),

touched as (
    select tenant_id, unnest([session_id, session_before]) as session_id
    from placed
    where has_moved
    union
    select tenant_id, session_id from gone
),

others as (
    select known.*
    from known
    semi join touched on known.tenant_id = touched.tenant_id and known.session_id = touched.session_id
    anti join placed on known.file_seq = placed.file_seq and known.line_number = placed.line_number
    anti join gone on known.file_seq = gone.file_seq and known.line_number = gone.line_number
),

members as (
    select file_seq, line_number, tenant_id, session_id, occurred_at, event_id, has_moved, number_before
    from placed
    where has_moved or (tenant_id, session_id) in (select (tenant_id, session_id) from touched)
    union all
    select file_seq, line_number, tenant_id, session_id, occurred_at, event_id, false as has_moved, event_number as number_before
    from others
),
{%- else -%}
members as not materialized (
    select *, true as has_moved, null as number_before from sessionized
),
{%- endif %}

numbered as (
    select
        file_seq,
        line_number,
        session_id,
        case when session_id is not null then row_number() over in_session end as event_number,
        has_moved,
        number_before
    from members
    window in_session as (partition by tenant_id, session_id order by occurred_at, event_id)
)

select * exclude (has_moved, number_before)
from numbered
where has_moved or coalesce(event_number, 0) != coalesce(number_before, 0)
