{# Ids stay in the payload: the canonical columns make sessions and persons, which an answer is no part of. #}
with records as (
    select * from {{ raw_records() }}
),

mapped as (
    select
        *,
        record ->> 'tenant_id' as tenant_id,
        record ->> 'request_id' as event_id,
        'prediction' as event_type,
        record ->> 'answered_at' as occurred_at
    from records
)

{{ canonical_events('mapped') }}
