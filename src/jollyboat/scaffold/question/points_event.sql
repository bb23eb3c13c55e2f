{# Who is asked, and when: each @entity@ at the moment of its first event with this condition. #}
with events as (
    select * from {{ ref('events') }}
    where @column@ is not null and not {{ jollyboat.is_feedback('source') }}
),

points as (
    select
        tenant_id,
        @column@ as entity_id,@history_column@
        min(occurred_at) as point_at
    from events
    where @points@
    group by tenant_id, @column@
)

select * from points
