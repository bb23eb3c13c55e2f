{#
    The candidates of each point: what is often viewed after the session's last items, then the most
    popular items. `covisit_score` decays with the place of the item that led to the candidate,
    `because_of`, counted from the last one. One row per (tenant_id, entity_id, point_at, item).
#}
{% macro candidate_items(question) -%}
    {%- set settings = jollyboat.ranking(question) -%}
    {%- set is_valid -%}
        on points.tenant_id = lookup.tenant_id
        and cast(points.point_at as date) >= lookup.valid_from
        and cast(points.point_at as date) < coalesce(lookup.valid_to, date '9999-12-31')
    {%- endset -%}
    with events as (
        select * from {{ ref(question ~ '_events_at_point') }}
    ),

    points as (
        select tenant_id, entity_id, point_at from events group by all
    ),

    items as (
        select
            tenant_id,
            entity_id,
            point_at,
            {{ settings.item }} as item,
            max(event_number) as event_number
        from events
        where event_type = '{{ settings.item_event }}' and {{ settings.item }} is not null
        group by all
    ),

    recent as (
        select
            *,
            row_number() over (
                partition by tenant_id, entity_id, point_at order by event_number desc
            ) as place
        from items
        qualify place <= {{ settings.last_items }}
    ),

    neighbours as (
        select
            recent.tenant_id,
            recent.entity_id,
            recent.point_at,
            recent.place,
            recent.item as because_of,
            lookup.total_weight,
            {{ jollyboat.each_struct('lookup.covisits') }}
        from recent
        inner join {{ ref('lookup_' ~ question ~ '_covisits') }} as lookup
            {{ is_valid | replace('points', 'recent') }}
            and recent.item = lookup.key
    ),

    covisits as (
        select
            * {{ jollyboat.without('total_weight') }},
            weight / total_weight as share
        from neighbours
    ),

    covisited as (
        select
            tenant_id,
            entity_id,
            point_at,
            item,
            cast(sum(cast(share / place as decimal(18, 9))) as double) as covisit_score,
            max(case when place = 1 then share end) as share_after_last,
            max(case when place = 1 then weight end) as weight_after_last,
            cast(
                sum(case when place > 1 then cast(share / place as decimal(18, 9)) end) as double
            ) as score_after_earlier,
            max_by(because_of, (share / place, -place)) as because_of
        from covisits
        group by all
    ),

    popular as (
        select
            points.tenant_id,
            points.entity_id,
            points.point_at,
            lookup.key as item,
            cast(null as double) as covisit_score,
            cast(null as double) as share_after_last,
            cast(null as float) as weight_after_last,
            cast(null as double) as score_after_earlier,
            cast(null as string) as because_of
        from points
        inner join {{ ref('lookup_' ~ question ~ '_popular') }} as lookup
            {{ is_valid }}
        where lookup.popularity_rank <= {{ settings.candidates }}
    ),

    offered as (
        select * from covisited
        union all
        select * from popular
        anti join covisited using (tenant_id, entity_id, point_at, item)
    ),

    candidates as (
        select
            offered.*,
            lookup.view_count,
            lookup.popularity_rank,
            lookup.popularity_percentile,
            lookup.price,
            lookup.category,
            row_number() over (
                partition by offered.tenant_id, offered.entity_id, offered.point_at
                order by
                    offered.covisit_score desc nulls last,
                    lookup.popularity_rank nulls last,
                    offered.item
            ) as candidate_rank
        from offered
        anti join recent
            on offered.tenant_id = recent.tenant_id
            and offered.entity_id = recent.entity_id
            and offered.point_at = recent.point_at
            and offered.item = recent.item
            and recent.place = 1
        left join {{ ref('lookup_' ~ question ~ '_popular') }} as lookup
            {{ is_valid | replace('points', 'offered') }}
            and offered.item = lookup.key
        qualify candidate_rank <= {{ settings.candidates }}
    )

    select * from candidates
{%- endmacro %}
