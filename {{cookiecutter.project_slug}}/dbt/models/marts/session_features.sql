with points as (
    select * from {{ ref('int_points') }}
),

features as (
    select * from {{ ref('features_at_point') }}
),

joined as (
    select
        points.tenant_id,
        points.entity_id,
        points.point_at,
        points.status,
        points.label,
        features.* exclude (tenant_id, entity_id, point_at)
    from points
    inner join features
        on points.tenant_id = features.tenant_id and points.entity_id = features.entity_id
)

select * from joined
