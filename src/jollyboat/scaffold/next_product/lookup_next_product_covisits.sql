{{ config(materialized='table_in_chunks') }}

{{ jollyboat.covisited_items('next_product') }}
