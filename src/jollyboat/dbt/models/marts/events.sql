with sessionized as (
    select file_seq, line_number, session_id, event_number from {{ ref('int_sessionized_events') }}
),

records as (
    select * exclude (session_id) from {{ ref('int_records') }}
),

events as (
    select
        source,
        {{ jollyboat.canonical_columns() | join(',\n        ') }},
        event_number,
        (
            coalesce({{ var('outcome') }}, false)
            and not {{ jollyboat.is_feedback('source') }}
        ) as is_outcome,
        file,
        line_number,
        arrived_on
    from records
    inner join sessionized using (file_seq, line_number)
)

select * from events
