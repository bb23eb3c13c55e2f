{#
    The definition of a ranking question, with its defaults. An item is what `item` names in an event
    of type `item_event`. Lookups count the views of the last `window_days`, and have a state for each
    of the last `learning_days`.
#}
{% macro ranking(name) -%}
    {%- set defaults = {
        'item': 'product_id',
        'item_event': 'product_view',
        'window_days': 28,
        'learning_days': 14,
        'covisits': 30,
        'neighbours': 3,
        'last_items': 5,
        'candidates': 100,
    } -%}
    {{ return(dict(defaults, **jollyboat.question(name))) }}
{%- endmacro %}

{# The views of items by people, in the order of their session; a reload is no second view. #}
{% macro item_views(question) -%}
    {%- set settings = jollyboat.ranking(question) -%}
    select
        events.tenant_id,
        events.session_id,
        events.event_number,
        events.occurred_at,
        cast(events.received_at as date) as arrived_on,
        events.{{ settings.item }} as item,
        events.price,
        events.category
    from {{ ref('events') }} as events
    anti join (
        select tenant_id, session_id from {{ ref('sessions') }} where status in ('bot', 'unfit')
    ) as no_persons
        on events.tenant_id = no_persons.tenant_id and events.session_id = no_persons.session_id
    where
        events.event_type = '{{ settings.item_event }}'
        and events.{{ settings.item }} is not null
        and events.session_id is not null
    qualify events.{{ settings.item }} is distinct from lag(events.{{ settings.item }}) over (
        partition by events.tenant_id, events.session_id order by events.event_number
    )
{%- endmacro %}

{#
    The points of a ranking question: the views of the last `learning_days`, each with the item that
    the session views next, or null. Views at the same moment are one point.
#}
{% macro points_with_next_item(question) -%}
    {%- set settings = jollyboat.ranking(question) -%}
    with views as (
        {{ jollyboat.item_views(question) }}
    ),

    followed as (
        select
            tenant_id,
            session_id as entity_id,
            occurred_at as point_at,
            lead(item) over (
                partition by tenant_id, session_id order by event_number
            ) as item
        from views
        qualify row_number() over (
            partition by tenant_id, session_id, occurred_at order by event_number desc
        ) = 1
    ),

    points as (
        select followed.*
        from followed
        cross join {{ ref('int_data_end') }} as data_end
        where
            followed.point_at
            >= cast(data_end.received_until as date) - {{ settings.learning_days - 1 }}
    )

    select * from points
{%- endmacro %}
