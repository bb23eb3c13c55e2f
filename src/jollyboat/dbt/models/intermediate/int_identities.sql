{#
    The person behind each id: links connect ids, and the id first seen names the person. The order
    in which records arrive changes nothing.
#}
{%- set links %}
        select tenant_id, 'a:' || anonymous_id as device, 'u:' || user_id as account
        from {{ ref('int_identity_links') }}
        where not is_cut
{%- endset %}

with first_records as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('int_deduplicated_records') }}
),

components as (
    {{ jollyboat.connected_components(links) }}
),

sightings as (
    select tenant_id, occurred_at, 'anonymous' as id_kind, anonymous_id as id
    from first_records
    union all
    select tenant_id, occurred_at, 'user' as id_kind, user_id as id
    from first_records
),

ids as {{ jollyboat.materialized() }} (
    select
        tenant_id,
        id_kind,
        id,
        left(id_kind, 1) || ':' || id as key,
        min(occurred_at) as first_seen_at
    from sightings
    where id is not null
    group by tenant_id, id_kind, id
),

ids_with_component as {{ jollyboat.materialized() }} (
    select ids.*, components.component
    from ids
    left join components
        on ids.tenant_id = components.tenant_id and ids.key = components.key
),

persons as (
    select component, min_by(key, (first_seen_at, key)) as person_id
    from ids_with_component
    where component is not null
    group by component
),

identities as (
    select
        ids_with_component.tenant_id,
        ids_with_component.id_kind,
        ids_with_component.id,
        coalesce(persons.person_id, ids_with_component.key) as person_id,
        ids_with_component.first_seen_at
    from ids_with_component
    left join persons
        on ids_with_component.component = persons.component
)

select * from identities
