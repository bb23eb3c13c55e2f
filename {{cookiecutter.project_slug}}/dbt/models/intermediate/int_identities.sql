{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook=["{{ forget(is_told_id(identity_key())) }}", "{{ connect(identity_links()) }}"]
) }}

{# The person behind each id: the one first seen of all ids that links connect, whatever the order in which they arrived. #}
with firsts as not materialized (
    select * from {{ ref('int_first_records') }}
),

carried as (
    select tenant_id, occurred_at, 'anonymous' as id_kind, anonymous_id as id
    from firsts
    union all
    select tenant_id, occurred_at, 'user' as id_kind, user_id as id
    from firsts
),

ids as (
    select tenant_id, id_kind, id, {{ identity_key() }} as key, min(occurred_at) as first_seen_at
    from carried
    where id is not null and {{ is_told_id(identity_key()) }}
    group by all
),

placed as (
    select ids.*, components.component
    from ids
    left join components
        on ids.tenant_id || '|' || ids.key = components.node
),

persons as (
    select component, min_by(key, (first_seen_at, key)) as person_id
    from placed
    where component is not null
    group by all
),

identities as (
    select
        placed.tenant_id,
        placed.id_kind,
        placed.id,
        coalesce(persons.person_id, placed.key) as person_id,
        placed.first_seen_at
    from placed
    left join persons
        on placed.component = persons.component
)

select * from identities
