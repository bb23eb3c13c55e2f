{{ config(materialized='view') }}

{{ jollyboat.events_before_points('next_product') }}
