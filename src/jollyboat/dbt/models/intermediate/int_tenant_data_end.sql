{#
    Where each tenant's data ends. Its open sessions and horizons are counted from here, so that no
    other tenant's clock decides what is over.
#}
with events as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('events') }}
    where not {{ jollyboat.is_feedback('source') }}
),

data_end as (
    select * from {{ ref('int_data_end') }}
),

by_tenant as (
    {{ jollyboat.data_end(['tenant_id']) }}
),

tenant_data_end as (
    select
        by_tenant.tenant_id,
        least(by_tenant.occurred_until, data_end.occurred_until) as occurred_until,
        least(by_tenant.received_until, data_end.received_until) as received_until
    from by_tenant
    cross join data_end
)

select * from tenant_data_end
