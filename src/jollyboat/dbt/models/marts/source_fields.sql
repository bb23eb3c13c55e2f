with records as (
    select * from {{ ref('int_records') }}
),

{# json_tree takes quadratic time and memory: 250 MB for a record of 50,000 characters. #}
sampled as (
    select source, arrived_on, structure, count(*) as record_count
    from records
    where length(structure) <= 20000
    group by all
),

days as (
    select source, arrived_on, sum(record_count) as sampled_count
    from sampled
    group by all
),

structures as (
    select structure
    from sampled
    group by all
),

{# There are few structures, even of millions of records. #}
leaves as (
    {{ jollyboat.structure_leaves('structures') }}
),

fields as (
    select
        sampled.source,
        sampled.arrived_on,
        leaves.field,
        cast(sum(record_count) filter (where leaves.type = 'VARCHAR') as bigint) as text_count,
        cast(
            sum(record_count) filter (
                where leaves.type not in ('VARCHAR', 'BOOLEAN', 'NULL')
            ) as bigint
        ) as number_count,
        cast(sum(record_count) filter (where leaves.type != 'NULL') as bigint) as known_count
    from sampled
    inner join leaves
        on sampled.structure = leaves.structure
    group by all
),

frequent_fields as (
    select source, field
    from fields
    group by all
    having sum(known_count) >= 10
),

{# A day without the field has a row with zeros. #}
filled as (
    select
        days.source,
        days.arrived_on,
        frequent_fields.field,
        coalesce(fields.text_count, 0) as text_count,
        coalesce(fields.number_count, 0) as number_count,
        coalesce(fields.known_count, 0) as known_count,
        cast(days.sampled_count as bigint) as sampled_count
    from days
    inner join frequent_fields
        on days.source = frequent_fields.source
    left join fields
        on days.source = fields.source
        and days.arrived_on = fields.arrived_on
        and frequent_fields.field = fields.field
)

select * from filled
