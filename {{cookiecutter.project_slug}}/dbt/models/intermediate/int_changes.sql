{#
    What a build adds to the tables of the one before: events that are new, in another session or at another place in it, and what
    stood there before (is_gone). What follows is made anew for these sessions alone; a full build makes all of it, and this is empty.
#}
{%- set before = adapter.get_relation(this.database, this.schema, 'events') if execute and not flags.FULL_REFRESH -%}

with sessionized as (
    select * from {{ ref('int_sessionized_events') }}
),

files as (
    select * from {{ ref('landed_files') }}
),

records as (
    select * exclude (session_id) from {{ ref('int_records') }}
),

before as (
    select
        files.file_seq,
        events.line_number,
        events.session_id,
        events.event_number,
        events.tenant_id,
        events.product_id,
        events.anonymous_id,
        events.user_id,
        events.received_at
    from {{ before or '(select *, 0 as event_number, file_seq as file from ' ~ ref('int_records') ~ ')' }} as events
    inner join files on events.file = files.file
    {% if not before %}where false{% endif %}
),

after as (
    select file_seq, line_number, session_id, event_number
    from sessionized
    {% if not before %}where false{% endif %}
),

added as (
    select after.*, records.tenant_id, records.product_id, records.anonymous_id, records.user_id, records.received_at
    from after
    anti join before
        on after.file_seq = before.file_seq
        and after.line_number = before.line_number
        and after.session_id is not distinct from before.session_id
        and after.event_number is not distinct from before.event_number
    inner join records
        on after.file_seq = records.file_seq and after.line_number = records.line_number
),

gone as (
    select before.*
    from before
    anti join after
        on before.file_seq = after.file_seq
        and before.line_number = after.line_number
        and before.session_id is not distinct from after.session_id
        and before.event_number is not distinct from after.event_number
),

changes as (
    select *, false as is_gone from added
    union all by name
    select *, true as is_gone from gone
)

select * from changes
