with features as (
    select * from {{ ref('int_features') }}
),

{# A ratio such as 1 / 0 is infinite and 0 / 0 is NaN: both are null to every reader. #}
finite as (
    select
        * replace (
            {%- for column in jollyboat.float_columns(ref('int_features')) %}
            case when isfinite({{ column }}) then {{ column }} end as {{ column }},
            {%- endfor %}
            point_at as point_at
        )
    from features
)

select * from finite
