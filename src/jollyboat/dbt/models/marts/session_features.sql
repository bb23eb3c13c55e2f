with features as (
    select * from {{ ref('int_features') }}
),

{# A ratio such as 1 / 0 is infinite and 0 / 0 is NaN: both are null to every reader. #}
finite as (
    select
        {{ jollyboat.finite_columns(ref('int_features')) }}
    from features
)

select * from finite
