{#
    Where the data ends. Newest days and lookups are counted from here, not from the last moment,
    which may be one device with a wrong clock.
#}
with events as {{ jollyboat.not_materialized() }} (
    select * from {{ ref('events') }}
    where not {{ jollyboat.is_feedback('source') }}
),

data_end as (
    {{ jollyboat.data_end() }}
)

select * from data_end
