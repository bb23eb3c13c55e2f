{{ config(materialized='view') }}

{# While features are computed, of one slice of the sessions at a time. #}
select * from {{ ref('int_asked_events') }}
where
    getvariable('slices') is null
    or {{ hash_bucket('entity_id', "getvariable('slices')") }} = getvariable('slice')
