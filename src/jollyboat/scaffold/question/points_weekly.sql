{#
    Who is asked, and when: on each Monday, and on the newest day, every @entity@ with an event in the
    week before and at least @least_days@ days with events in the last @history_days@.
#}
with events as (
    select * from {{ ref('events') }}
    where @column@ is not null and not {{ jollyboat.is_feedback('source') }}
),

active_days as (
    select tenant_id, @column@ as entity_id, cast(occurred_at as date) as day
    from events
    group by all
),

moments as (
    select day as asked_on from active_days
    where {{ jollyboat.weekday('day') }} = 1
    union
    select max(day) as asked_on from active_days
),

points as (
    select
        active_days.tenant_id,
        active_days.entity_id,
        cast(moments.asked_on as timestamp) as point_at
    from moments
    inner join active_days
        on active_days.day < moments.asked_on
        and active_days.day >= moments.asked_on - @history_days@
    group by active_days.tenant_id, active_days.entity_id, moments.asked_on
    having count(*) >= @least_days@ and max(active_days.day) >= moments.asked_on - 7
)

select * from points
