{{ config(materialized='view') }}

{# While features are computed, of one slice of the sessions at a time. #}
select * exclude (slice)
from {{ ref('int_asked_events') }}
where getvariable('slice') is null or slice = getvariable('slice')
