{#
    What a build adds to the tables of the one before: events that are new, in another session or at another place in it, and what
    stood there before (is_gone). What follows is made anew for these sessions alone; a full build makes all of it, and this is empty.
#}
{%- set before = events_before() %}
{%- set columns = ['tenant_id', 'event_id', 'product_id', 'anonymous_id', 'user_id', 'received_at'] %}

with sessionized as (
    select * from {{ ref('int_sessionized_events') }}
    {% if not before %}where false{% endif %}
),

firsts as not materialized ( -- noqa: ST03
    select file_seq, line_number, tenant_id, event_id
    from {{ ref('int_first_records') }}
    where same_order_as is null
),

added as (
    select sessionized.*, records.{{ columns | join(', records.') }}, false as is_gone
    from {{ ref('int_records') }} as records
    inner join sessionized
        on records.file_seq = sessionized.file_seq and records.line_number = sessionized.line_number
),

{% if before -%}
known as not materialized (
    select file_seq, line_number, session_id, event_number, {{ columns | join(', ') }} from {{ before }} as known
),

told as (
    select * from {{ told_events() }}
),

{# From the few to the many, as int_sessionized_events does. #}
kept as (
    select firsts.file_seq, firsts.line_number
    from told
    inner join firsts on told.tenant_id = firsts.tenant_id and told.event_id = firsts.event_id
),

stood as (
    select known.*
    from told
    inner join known on told.tenant_id = known.tenant_id and told.event_id = known.event_id
),

gone as ( -- noqa: ST03
    select *, true as is_gone
    from known
    semi join sessionized
        on known.file_seq = sessionized.file_seq and known.line_number = sessionized.line_number
    union all
    select *, true as is_gone
    from stood
    anti join kept
        on stood.file_seq = kept.file_seq and stood.line_number = kept.line_number
),
{%- endif %}

changes as (
    select * from added
    {% if before -%}
    union all by name
    select * from gone
    {%- endif %}
)

select * from changes
