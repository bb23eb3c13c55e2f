{#
    Ids of which a build decides anew whose they are: those that records of the told events carry, those that the build before
    had seen together with these, and all that were then one person with any of them. In a full build for all, and this is empty.
#}
{%- set before = adapter.get_relation(this.database, this.schema, 'int_identities') if execute and not flags.FULL_REFRESH %}

with records as not materialized (
    select tenant_id, event_id, {{ visitor_keys() }} as keys
    from {{ ref('int_records') }}
    where reason is null
),

told as (
    select * from {{ ref('int_told_events') }}
),

carried as (
    select distinct records.tenant_id, unnest(records.keys) as key
    from records
    semi join told
        on records.tenant_id = told.tenant_id and records.event_id = told.event_id
),

{% if before -%}
links as not materialized (
    select tenant_id, {{ visitor_keys() }} as keys
    from {{ api.Relation.create(this.database, this.schema, 'int_identity_links') }} as links
),

persons as not materialized (
    select tenant_id, person_id, {{ identity_key() }} as key
    from {{ before }} as persons
),

near as (
    select * from carried
    union
    select links.tenant_id, links.keys[2] as key
    from links
    semi join carried
        on links.tenant_id = carried.tenant_id and links.keys[1] = carried.key
    union
    select links.tenant_id, links.keys[1] as key
    from links
    semi join carried
        on links.tenant_id = carried.tenant_id and links.keys[2] = carried.key
),

theirs as (
    select distinct persons.tenant_id, persons.person_id
    from persons
    semi join near
        on persons.tenant_id = near.tenant_id and persons.key = near.key
),

asked as (
    select * from near
    union
    select persons.tenant_id, persons.key
    from persons
    semi join theirs
        on persons.tenant_id = theirs.tenant_id and persons.person_id = theirs.person_id
)
{%- else -%}
asked as (
    select * from carried
)
{%- endif %}

select * from asked
where key is not null
