{# The server finds sessions that have the outcome already by the condition in this meta. #}
{{ config(
    meta={'outcome': 'false' if jollyboat.outcome_is_of_session() else var('outcome')}
) }}

with sessionized as (
    select file_seq, line_number, part, session_id, event_number
    from {{ ref('int_sessionized_events') }}
),

records as (
    select * {{ jollyboat.without('session_id') }} from {{ ref('int_records') }}
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
        part,
        arrived_on
    from records
    inner join sessionized using (file_seq, line_number, part)
)

select * from events
