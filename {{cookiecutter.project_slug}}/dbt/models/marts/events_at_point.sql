{%- set features = api.Relation.create(this.database, this.schema, 'session_features') -%}
{{ config(pre_hook="{{ forget(stale_features(), api.Relation.create(this.database, this.schema, 'session_features')) }}") }}

{# Of the sessions whose features this build computes: in a full build of all. #}
with seen as (
    select * from {{ ref('int_events_at_point') }}
),

asked as (
    select *
    from seen
    {% if execute and not flags.FULL_REFRESH and adapter.get_relation(this.database, this.schema, 'session_features') -%}
    where (tenant_id, entity_id) not in (select (tenant_id, entity_id) from {{ features }})
    {%- endif %}
)

select * from asked
