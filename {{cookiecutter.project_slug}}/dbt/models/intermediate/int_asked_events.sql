{%- set features = api.Relation.create(this.database, this.schema, 'session_features') -%}
{{ config(pre_hook="{{ forget(stale_features(), api.Relation.create(this.database, this.schema, 'session_features')) }}") }}

{# Of the sessions whose features this build computes, in a full build of all; each in one of the slices (see first_slice). #}
with seen as (
    select * from {{ ref('int_events_at_point') }}
),

sessions as (
    select tenant_id, session_id as entity_id
    from {{ ref('sessions') }}
    {% if execute and not flags.FULL_REFRESH and adapter.get_relation(this.database, this.schema, 'session_features') -%}
    anti join {{ features }} as features
        on sessions.tenant_id = features.tenant_id and sessions.session_id = features.entity_id
    {%- endif %}
),

slices as (
    select 1 + count(*) // {{ var('sessions_at_once') }} as slice_count
    from sessions
),

asked as (
    select
        seen.*,
        {{ hash_bucket('seen.entity_id', 'slices.slice_count') }} as slice
    from seen
    inner join sessions
        on seen.tenant_id = sessions.tenant_id and seen.entity_id = sessions.entity_id
    cross join slices
)

select * from asked
