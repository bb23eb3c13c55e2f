{# Ids stay in the payload, as those of the server's answers. #}
with records as (
    select * from {{ raw_records() }}
),

mapped as (
    select
        *,
        record ->> 'tenant_id' as tenant_id,
        record ->> 'judgement_id' as event_id,
        'judgement' as event_type,
        record ->> 'judged_at' as occurred_at
    from records
)

{{ canonical_events('mapped') }}
