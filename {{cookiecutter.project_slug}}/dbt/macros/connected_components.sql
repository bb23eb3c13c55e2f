{#
    Before a model runs: the connected components of a query's links (a, b), as the temporary table components(node, component).
    In each round every component joins its smallest neighbour, and that one's, down to one that has no smaller. At least half of
    those that have a neighbour are gone then, so the work is linear in the links.
#}
{% macro connect(links) -%}
    {%- if execute -%}
        {%- do run_query("create or replace temp table links as " ~ links) -%}
        {%- do run_query(
            "create or replace temp table components as select node, row_number() over (order by node) as component "
            "from (select a as node from links union select b from links)"
        ) -%}
        {%- do run_query(
            "create or replace temp table links as select one.component as a, other.component as b from links "
            "inner join components as one on links.a = one.node inner join components as other on links.b = other.node"
        ) -%}
        {%- set left = namespace(links=1) -%}
        {%- for _ in range(100) if left.links -%}
            {%- do run_query(
                "create or replace temp table hooks as select node, min(target) as target "
                "from (select a as node, b as target from links union all select b, a from links) "
                "group by node having min(target) < node"
            ) -%}
            {%- set left.links = run_query("select count(*) from hooks").rows[0][0] -%}
            {%- set steps = namespace(left=left.links) -%}
            {%- for _ in range(100) if steps.left -%}
                {%- do run_query(
                    "create or replace temp table hooks as "
                    "select near.node, coalesce(far.target, near.target) as target, far.target is not null as has_moved "
                    "from hooks as near left join hooks as far on near.target = far.node"
                ) -%}
                {%- set steps.left = run_query("select count(*) from hooks where has_moved").rows[0][0] -%}
            {%- endfor -%}
            {%- if left.links -%}
                {%- do run_query(
                    "create or replace temp table components as select node, coalesce(target, component) as component "
                    "from components left join (select node as joining, target from hooks) on component = joining"
                ) -%}
                {%- do run_query(
                    "create or replace temp table links as select distinct coalesce(one.target, a) as a, coalesce(other.target, b) as b "
                    "from links left join hooks as one on a = one.node left join hooks as other on b = other.node "
                    "where coalesce(one.target, a) != coalesce(other.target, b)"
                ) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}

{# Not a model's own text, for a hook is rendered alone. #}
{% macro identity_links() -%}
    select tenant_id || '|a:' || anonymous_id as a, tenant_id || '|u:' || user_id as b
    from {{ ref('int_identity_links') }}
    where not is_cut and {{ is_told_link() }}
{%- endmacro %}
