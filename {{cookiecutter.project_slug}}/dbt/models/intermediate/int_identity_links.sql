{{ config(materialized='incremental', incremental_strategy='append', pre_hook="{{ forget(is_told_link()) }}") }}

{#
    Which device was seen with which account. A device of very many accounts (a shop's tablet) and an account of very many
    devices (a bot) tell nothing of a person: their links are cut, so that they do not merge the world.
#}
with firsts as (
    select * from {{ ref('int_first_records') }}
),

told as (
    select tenant_id, anonymous_id, user_id, min(occurred_at) as first_seen_at
    from firsts
    where anonymous_id is not null and user_id is not null and {{ is_told_link() }}
    group by all
),

links as (
    select *, true as is_told from told
    {% if is_incremental() -%}
    union all
    select tenant_id, anonymous_id, user_id, first_seen_at, false as is_told from {{ this }}
    {%- endif %}
),

counted as (
    select
        *,
        count(*) over (partition by tenant_id, anonymous_id) as account_count,
        count(*) over (partition by tenant_id, user_id) as device_count
    from links
),

judged as (
    select
        * exclude (is_told),
        account_count > {{ var('accounts_of_a_device') }} or device_count > {{ var('devices_of_an_account') }} as is_cut
    from counted
    where is_told
)

select * from judged
