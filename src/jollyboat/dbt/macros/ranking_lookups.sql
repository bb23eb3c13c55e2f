{# The day that each state of a question's lookups is valid on; the newest has no end yet. #}
{% macro lookup_days(question) -%}
    select
        cast(received_until as date) + 1 - cast(ago.days as integer) as valid_from,
        case when ago.days > 0 then valid_from + 1 end as valid_to
    from {{ ref('int_data_end') }}
    cross join range({{ jollyboat.ranking(question).learning_days + 1 }}) as ago (days)
{%- endmacro %}

{#
    The items that were viewed in the window before each day, with the number of sessions, the rank
    among the tenant's items, and the price and category of the last day. One row per
    (tenant_id, key, valid_from).
#}
{% macro popular_items(question) -%}
    with views as (
        {{ jollyboat.item_views(question) }}
    ),

    days as (
        {{ jollyboat.lookup_days(question) }}
    ),

    views_by_day as (
        select
            tenant_id,
            item,
            arrived_on,
            count(distinct session_id) as view_count,
            max(price) as price,
            min(category) as category
        from views
        group by all
    ),

    totals as (
        select
            views.tenant_id,
            views.item as key,
            days.valid_from,
            days.valid_to,
            cast(sum(views.view_count) as bigint) as view_count,
            cast({{ jollyboat.max_by('views.price', 'views.arrived_on') }} as double) as price,
            {{ jollyboat.max_by('views.category', 'views.arrived_on') }} as category
        from views_by_day as views
        inner join days
            on views.arrived_on < days.valid_from
            and views.arrived_on >= days.valid_from - {{ jollyboat.ranking(question).window_days }}
        group by all
    ),

    ranked as (
        select
            *,
            row_number() over popularity as popularity_rank,
            percent_rank() over popularity as popularity_percentile
        from totals
        window popularity as (
            partition by tenant_id, valid_from order by view_count desc, key
        )
    )

    select * from ranked
{%- endmacro %}

{#
    The items that sessions viewed within so many steps (`neighbours`) after an item, in the window
    before each day, those with the largest weights first. A neighbour at distance d weighs 1 / d,
    as a decimal, whose sums are the same in any order. Materialize it as table_in_chunks. One row
    per (tenant_id, key, valid_from).
#}
{% macro covisited_items(question) -%}
    {%- set settings = jollyboat.ranking(question) -%}
    with views as (
        {{ jollyboat.item_views(question) }}
    ),

    days as (
        {{ jollyboat.lookup_days(question) }}
    ),

    steps as (
        select
            *,
            row_number() over (partition by tenant_id, session_id order by event_number) as step
        from views
    ),

    weights_by_day as (
        select
            earlier.tenant_id,
            earlier.item as key,
            later.item,
            later.arrived_on,
            sum(cast(1 / (later.step - earlier.step) as decimal(18, 6))) as weight
        from steps as earlier
        inner join steps as later
            on earlier.tenant_id = later.tenant_id
            and earlier.session_id = later.session_id
            and later.step > earlier.step
            and later.step <= earlier.step + {{ settings.neighbours }}
            and earlier.item <> later.item
        where {{ jollyboat.in_chunk('earlier.item') }}
        group by all
    ),

    {{ jollyboat.covisit_lists(settings) }}

    select * from lists
{%- endmacro %}

{# The CTE `lists` of covisited_items, from its CTEs weights_by_day and days. #}
{% macro covisit_lists(settings) -%}
    {{ adapter.dispatch('covisit_lists', 'jollyboat')(settings) }}
{%- endmacro %}

{# Spark joins the days, and sorts on disk where memory ends. #}
{% macro spark__covisit_lists(settings) -%}
    weighted as (
        select
            weights_by_day.tenant_id,
            weights_by_day.key,
            days.valid_from,
            days.valid_to,
            weights_by_day.item,
            cast(sum(weights_by_day.weight) as float) as weight
        from weights_by_day
        inner join days
            on weights_by_day.arrived_on < days.valid_from
            and weights_by_day.arrived_on >= days.valid_from - {{ settings.window_days }}
        group by all
    ),

    lists as (
        select
            tenant_id,
            key,
            valid_from,
            valid_to,
            sum(weight) as total_weight,
            slice(
                sort_array(collect_list(struct(weight, item)), false), 1, {{ settings.covisits }}
            ) as covisits
        from weighted
        where weight > 0
        group by tenant_id, key, valid_from, valid_to
    )
{%- endmacro %}

{% macro default__covisit_lists(settings) -%}
    {# Lists, for a join with the days would have a row for each pair and day. #}
    pairs as (
        select
            tenant_id,
            key,
            item,
            list({'arrived_on': arrived_on, 'weight': weight}) as past
        from weights_by_day
        group by all
    ),

    keys as (
        select tenant_id, key, list({'item': item, 'past': past}) as neighbours
        from pairs
        group by all
    ),

    weighted as (
        select
            keys.tenant_id,
            keys.key,
            days.valid_from,
            days.valid_to,
            [
                {
                    'weight': cast(
                        list_sum([
                            day.weight for day in neighbour.past
                            if day.arrived_on < days.valid_from
                            and day.arrived_on >= days.valid_from - {{ settings.window_days }}
                        ]) as float
                    ),
                    'item': neighbour.item
                } for neighbour in keys.neighbours
            ] as neighbours
        from keys
        cross join days
    ),

    ordered as (
        select * replace (
            list_reverse_sort([each for each in neighbours if each.weight > 0]) as neighbours
        )
        from weighted
    ),

    lists as (
        select
            * exclude (neighbours),
            list_sum([each.weight for each in neighbours]) as total_weight,
            neighbours[:{{ settings.covisits }}] as covisits
        from ordered
        where len(neighbours) > 0
    )
{%- endmacro %}
