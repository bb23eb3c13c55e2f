{#
    Which device was seen with which account. A device of very many accounts (a shop's tablet) and
    an account of very many devices (a bot) identify no person: their links are cut.
#}
with first_records as (
    select * from {{ ref('int_deduplicated_records') }}
),

links as (
    select tenant_id, anonymous_id, user_id, min(occurred_at) as first_seen_at
    from first_records
    where anonymous_id is not null and user_id is not null
    group by all
),

link_counts as (
    select
        *,
        count(*) over (partition by tenant_id, anonymous_id) as account_count,
        count(*) over (partition by tenant_id, user_id) as device_count
    from links
),

limited_links as (
    select
        *,
        (
            account_count > {{ var('accounts_of_a_device') }}
            or device_count > {{ var('devices_of_an_account') }}
        ) as is_cut
    from link_counts
)

select * from limited_links
