{{ config(pre_hook="{{ connect(identity_links()) }}") }}

{# The person behind each id: the one first seen of all ids that links connect, whatever the order in which they arrived. #}
with firsts as not materialized (
    select * from {{ ref('int_first_records') }}
),

carried as (
    select tenant_id, occurred_at, 'anonymous' as id_kind, 'a:' as prefix, anonymous_id as id
    from firsts
    union all
    select tenant_id, occurred_at, 'user' as id_kind, 'u:' as prefix, user_id as id
    from firsts
),

ids as (
    select tenant_id, id_kind, id, prefix || id as key, min(occurred_at) as first_seen_at
    from carried
    where id is not null
    group by all
),

identities as (
    select
        ids.tenant_id,
        ids.id_kind,
        ids.id,
        case
            when components.node is null then ids.key
            else first_value(ids.key) over (partition by components.component order by ids.first_seen_at, ids.key)
        end as person_id,
        ids.first_seen_at
    from ids
    left join components
        on ids.tenant_id || '|' || ids.key = components.node
)

select * from identities
