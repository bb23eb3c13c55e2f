{# What people said of sessions. The last one that was not undone stands. #}
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
        }') as said
    from events
    where source = 'labels'
),

judgements as (
    select
        tenant_id,
        judgement_id,
        judged_at,
        struct_extract(said, 'by') as judged_by,
        said.entity_id,
        {{ utc_timestamp('said.point_at') }} as point_at,
        said.judgement,
        said.undoes
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

told as (
    select
        judgements.*,
        last_ones.judgement_id is not null as stands
    from judgements
    left join last_ones
        on judgements.tenant_id = last_ones.tenant_id and judgements.judgement_id = last_ones.judgement_id
)

select * from told
