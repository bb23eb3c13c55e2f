{{ config(materialized='table_in_chunks') }}

{%- do jollyboat.check_feature_names(ref('features_at_point')) %}

with sessions as (
    select * from {{ ref('sessions') }}
),

features as (
    select * from {{ ref('features_at_point') }}
),

joined as (
    select
        features.tenant_id,
        features.entity_id,
        features.point_at,
        sessions.status,
        sessions.label,
        features.* {{ jollyboat.without('tenant_id', 'entity_id', 'point_at') }}
    from features
    inner join sessions
        on features.tenant_id = sessions.tenant_id and features.entity_id = sessions.session_id
)

select * from joined
