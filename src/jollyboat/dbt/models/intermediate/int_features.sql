{{ config(materialized='table_in_chunks') }}

{# Training, monitoring and review put columns with these names beside the features. #}
{%- set reserved = [
    'status', 'label', 'person_id', 'person', 'day', 'probability', 'score', 'threshold', 'kind',
    'turn'
] %}
{%- if execute %}
{%- for column in adapter.get_columns_in_relation(ref('features_at_point')) %}
{%- if column.name | lower in reserved %}
{%- do exceptions.raise_compiler_error(
    'The feature ' ~ column.name ~ ' has a name that Jollyboat uses. '
    ~ 'Give it another name in features_at_point.sql.'
) %}
{%- endif %}
{%- endfor %}
{%- endif %}

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
        features.* exclude (tenant_id, entity_id, point_at)
    from features
    inner join sessions
        on features.tenant_id = sessions.tenant_id and features.entity_id = sessions.session_id
)

select * from joined
