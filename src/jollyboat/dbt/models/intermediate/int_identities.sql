{#
    The person behind each id: links connect ids, and the id first seen names the person. The order
    in which records arrive changes nothing.
#}
with recursive first_records as not materialized ( -- noqa: PRS
    select * from {{ ref('int_deduplicated_records') }}
),

links as materialized (
    select tenant_id, 'a:' || anonymous_id as device, 'u:' || user_id as account
    from {{ ref('int_identity_links') }}
    where not is_cut
),

sightings as (
    select tenant_id, occurred_at, 'anonymous' as id_kind, anonymous_id as id
    from first_records
    union all
    select tenant_id, occurred_at, 'user' as id_kind, user_id as id
    from first_records
),

ids as materialized (
    select
        tenant_id,
        id_kind,
        id,
        left(id_kind, 1) || ':' || id as key,
        min(occurred_at) as first_seen_at,
        row_number() over () as number
    from sightings
    where id is not null
    group by tenant_id, id_kind, id
),

edges as materialized (
    select devices.number as one, accounts.number as other
    from links
    inner join ids as devices
        on links.tenant_id = devices.tenant_id and links.device = devices.key
    inner join ids as accounts
        on links.tenant_id = accounts.tenant_id and links.account = accounts.key
),

{#
    Connected components, each named by its smallest number. In each round the larger name of an
    edge takes the smaller one, and each number takes the name of its name. A chain of n ids
    needs about log n rounds.
#}
components (number, component) using key (number) as (
    select one as number, one as component from edges
    union
    select other as number, other as component from edges
    union
    select candidates.number, min(candidates.component) as component
    from (
        select
            greatest(a.component, b.component) as number,
            least(a.component, b.component) as component
        from edges
        inner join recurring.components as a
            on edges.one = a.number
        inner join recurring.components as b
            on edges.other = b.number
        union all
        select components.number, names.component
        from recurring.components as components
        inner join recurring.components as names
            on components.component = names.number
    ) as candidates
    inner join recurring.components as current
        on candidates.number = current.number and candidates.component < current.component
    group by candidates.number
),

persons as (
    select components.component, min_by(ids.key, (ids.first_seen_at, ids.key)) as person_id
    from ids
    inner join components
        on ids.number = components.number
    group by components.component
),

identities as (
    select
        ids.tenant_id,
        ids.id_kind,
        ids.id,
        coalesce(persons.person_id, ids.key) as person_id,
        ids.first_seen_at
    from ids
    left join components
        on ids.number = components.number
    left join persons
        on components.component = persons.component
)

select * from identities
