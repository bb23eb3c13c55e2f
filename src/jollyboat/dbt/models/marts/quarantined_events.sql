with records as (
    select * from {{ ref('int_records') }}
),

files as (
    select * from {{ ref('landed_files') }}
),

tenants as (
    select distinct tenant_id
    from records
    where reason is null
),

{# The folder tenant=NAME or the name of a file may say whose it is. #}
file_tenants as (
    select
        files.file,
        coalesce(
            nullif(regexp_extract(files.file, '/tenant=([A-Za-z0-9][A-Za-z0-9_.-]{0,63})/', 1), ''),
            tenants.tenant_id
        ) as tenant_id
    from files
    left join tenants
        on split_part(split_part(files.file, '/', -1), '.', 1) = tenants.tenant_id
),

lines as (
    select
        case when reason != 'malformed_tenant' then tenant_id end as tenant_id,
        source,
        file,
        line_number,
        reason,
        line,
        arrived_on
    from records
    where reason != 'left_out'
),

damaged_files as (
    select
        cast(null as string) as tenant_id,
        source,
        file,
        0 as line_number,
        damage as reason,
        cast(null as string) as line,
        arrived_on
    from files
    where damage is not null
),

quarantined as (
    select * from lines
    union all
    select * from damaged_files
),

with_tenants as (
    select
        coalesce(quarantined.tenant_id, file_tenants.tenant_id) as tenant_id,
        quarantined.* {{ jollyboat.without('tenant_id') }}
    from quarantined
    left join file_tenants
        on quarantined.file = file_tenants.file
)

select * from with_tenants
