{#
    The leaves of the JSON in the column `structure` of a CTE: `structure`, `field` (the path from
    the root, with a name that is not plain in quotes) and `type`.
#}
{% macro structure_leaves(cte) -%}
    {{ adapter.dispatch('structure_leaves', 'jollyboat')(cte) }}
{%- endmacro %}

{% macro default__structure_leaves(cte) -%}
    select
        {{ cte }}.structure,
        replace(
            case
                when
                    leaf.fullkey = leaf.path || '.' || leaf.key
                    and not regexp_full_match(leaf.key, '[\pL\pN_-]+')
                    then substr(leaf.path || '."' || leaf.key || '"', 3)
                else substr(leaf.fullkey, 3)
            end,
            '[0]',
            '[]'
        ) as field,
        leaf.atom ->> '$' as type
    from {{ cte }}, json_tree({{ cte }}.structure) as leaf
    where leaf.atom is not null
{%- endmacro %}

{# Level by level: Spark has no function that walks a tree. A leaf is no object and no list. #}
{% macro spark__structure_leaves(cte) -%}
    with recursive nodes as (
        select structure, '$' as path, '$' as field, structure as value, true as is_group
        from {{ cte }}
        union all
        select
            structure,
            case when is_list then path || '[0]' else path || '.' || key end as path,
            case
                when is_list then path || '[0]'
                when regexp_like(key, '^[\pL\pN_-]+$') then path || '.' || key
                else path || '."' || key || '"'
            end as field,
            value,
            left(value, 1) in ('{', '[') as is_group
        from (
            select
                structure,
                path,
                left(value, 1) = '[' as is_list,
                explode(
                    case
                        when left(value, 1) = '[' then map('0', get_json_object(value, '$[0]'))
                        else from_json(value, 'map<string, string>')
                    end
                ) as (key, value)
            from nodes
            where is_group
        )
    )

    select structure, replace(substr(field, 3), '[0]', '[]') as field, value as type
    from nodes
    where not is_group
{%- endmacro %}
