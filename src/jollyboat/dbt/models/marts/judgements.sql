{# People's judgements of sessions. A session's last one that was not undone is in effect. #}
with events as (
    select * from {{ ref('events') }}
),

parsed as (
    select
        tenant_id,
        event_id as judgement_id,
        occurred_at as judged_at,
        {{ jollyboat.json_field('payload', 'by') }} as judged_by,
        {{ jollyboat.json_struct('payload', {
            'entity_id': 'string', 'point_at': 'string', 'judgement': 'string',
            'comment': 'string', 'undoes': 'string'
        }) }} as body
    from events
    where source = 'labels'
),

judgements as (
    select
        tenant_id,
        judgement_id,
        judged_at,
        judged_by,
        body.entity_id,
        {{ jollyboat.utc_timestamp('body.point_at') }} as point_at,
        body.judgement,
        body.comment,
        body.undoes
    from parsed
),

undone as (
    select tenant_id, undoes as judgement_id
    from judgements
    where judgement = 'undo'
),

last_judgements as (
    select
        judgements.tenant_id,
        max_by(
            judgements.judgement_id, (judgements.judged_at, judgements.judgement_id)
        ) as judgement_id
    from judgements
    anti join undone
        on judgements.tenant_id = undone.tenant_id
        and judgements.judgement_id = undone.judgement_id
    where judgements.judgement <> 'undo'
    group by judgements.tenant_id, judgements.entity_id
),

judgements_with_effect as (
    select
        judgements.*,
        last_judgements.judgement_id is not null as is_in_effect
    from judgements
    left join last_judgements
        on judgements.tenant_id = last_judgements.tenant_id
        and judgements.judgement_id = last_judgements.judgement_id
)

select * from judgements_with_effect
