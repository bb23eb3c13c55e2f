{# People's judgements of sessions. The last one of a session that was not undone is in effect. #}
with events as (
    select * from {{ ref('events') }}
),

parsed as (
    select
        tenant_id,
        event_id as judgement_id,
        occurred_at as judged_at,
        json_transform(payload, '{
            "by": "VARCHAR", "entity_id": "VARCHAR", "point_at": "VARCHAR", "judgement": "VARCHAR", "undoes": "VARCHAR"
        }') as body
    from events
    where source = 'labels'
),

judgements as (
    select
        tenant_id,
        judgement_id,
        judged_at,
        struct_extract(body, 'by') as judged_by,
        body.entity_id,
        {{ jollyboat.utc_timestamp('body.point_at') }} as point_at,
        body.judgement,
        body.undoes
    from parsed
),

undone as (
    select tenant_id, undoes as judgement_id
    from judgements
    where judgement = 'undo'
),

last_ones as (
    select judgements.tenant_id, max_by(judgements.judgement_id, (judgements.judged_at, judgements.judgement_id)) as judgement_id
    from judgements
    anti join undone
        on judgements.tenant_id = undone.tenant_id and judgements.judgement_id = undone.judgement_id
    where judgements.judgement <> 'undo'
    group by judgements.tenant_id, judgements.entity_id
),

marked as (
    select
        judgements.*,
        last_ones.judgement_id is not null as stands
    from judgements
    left join last_ones
        on judgements.tenant_id = last_ones.tenant_id and judgements.judgement_id = last_ones.judgement_id
)

select * from marked
