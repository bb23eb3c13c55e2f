{#
    The component of each id that a query of links (tenant_id, device, account) names: tenant_id,
    key (the device or the account) and component. Ids that links connect, directly or not, have
    the same component. In each round the larger name of an edge takes the smaller one, and each name
    takes the name of its name. A chain of n ids needs about log n rounds.
#}
{% macro connected_components(links) -%}
    {{ adapter.dispatch('connected_components', 'jollyboat')(links) }}
{%- endmacro %}

{% macro default__connected_components(links) -%}
    with recursive links as materialized (
        {{ links }}
    ),

    nodes as materialized (
        select *, row_number() over () as number
        from (
            select tenant_id, device as key from links
            union
            select tenant_id, account as key from links
        )
    ),

    edges as materialized (
        select devices.number as one, accounts.number as other
        from links
        inner join nodes as devices
            on links.tenant_id = devices.tenant_id and links.device = devices.key
        inner join nodes as accounts
            on links.tenant_id = accounts.tenant_id and links.account = accounts.key
    ),

    components (number, component) using key (number) as (
        select one as number, one as component from edges
        union
        select other as number, other as component from edges
        union
        select candidates.number, min(candidates.component) as component
        from (
            select
                greatest(a.component, b.component) as number,
                least(a.component, b.component) as component
            from edges
            inner join recurring.components as a
                on edges.one = a.number
            inner join recurring.components as b
                on edges.other = b.number
            union all
            select components.number, names.component
            from recurring.components as components
            inner join recurring.components as names
                on components.component = names.number
        ) as candidates
        inner join recurring.components as current
            on candidates.number = current.number and candidates.component < current.component
        group by candidates.number
    )

    select nodes.tenant_id, nodes.key, components.component
    from nodes
    inner join components
        on nodes.number = components.number
{%- endmacro %}

{# A table for each round: Spark's recursive queries only add rows. #}
{% macro spark__connected_components(links) -%}
    {%- set prefix = this ~ '_' -%}
    {%- if execute -%}
        {% do jollyboat.replace_table(prefix ~ 'edges', "
            select
                tenant_id,
                device,
                account,
                concat_ws('|', tenant_id, device) as one,
                concat_ws('|', tenant_id, account) as other
            from (" ~ links ~ ")") %}
        {% do jollyboat.replace_table(prefix ~ 'round_0', "
            select tenant_id, device as key, one as name, one as component
            from " ~ prefix ~ "edges
            union
            select tenant_id, account, other, other
            from " ~ prefix ~ "edges") %}
        {%- set round = namespace(number=0, is_last=false) -%}
        {%- for _ in range(100) if not round.is_last -%}
            {%- set names = prefix ~ 'round_' ~ round.number -%}
            {%- set round.number = round.number + 1 -%}
            {% do jollyboat.replace_table(prefix ~ 'round_' ~ round.number, "
                with edges as (
                    select distinct a.component as one, b.component as other
                    from " ~ prefix ~ "edges as links
                    inner join " ~ names ~ " as a on links.one = a.name
                    inner join " ~ names ~ " as b on links.other = b.name
                    where a.component <> b.component
                ),
                candidates as (
                    select greatest(one, other) as name, least(one, other) as component from edges
                    union all
                    select names.name, further.component
                    from " ~ names ~ " as names
                    inner join " ~ names ~ " as further on names.component = further.name
                ),
                smallest as (
                    select name, min(component) as component from candidates group by name
                )
                select names.tenant_id, names.key, names.name,
                    least(names.component, smallest.component) as component
                from " ~ names ~ " as names
                left join smallest on names.name = smallest.name") %}
            {%- set changes = run_query(
                "select count(*) from " ~ names ~ " as before inner join " ~ prefix ~ 'round_'
                ~ round.number ~ " as after on before.name = after.name "
                ~ "where before.component <> after.component") -%}
            {%- set round.is_last = changes.rows[0][0] | int == 0 -%}
        {%- endfor -%}
        select tenant_id, key, component from {{ prefix }}round_{{ round.number }}
    {%- else -%}
        select tenant_id, device as key, device as component from ({{ links }})
    {%- endif -%}
{%- endmacro %}

{% macro replace_table(name, query) -%}
    {% do run_query('drop table if exists ' ~ name) %}
    {% do run_query('create table ' ~ name ~ ' as ' ~ query) %}
{%- endmacro %}
