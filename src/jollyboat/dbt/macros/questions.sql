{#
    A question's definition: `question` in the meta of its model <name>_points, with its defaults.
    While dbt parses, and in unit tests, the graph is empty.
#}
{% macro question(name) -%}
    {%- set defaults = {
        'is_absence': false, 'horizon_days': none, 'history': none, 'history_days': none
    } -%}
    {%- set points = graph.get('nodes', {}).values()
        | selectattr('resource_type', 'eq', 'model')
        | selectattr('name', 'eq', name ~ '_points') | list -%}
    {%- set definition = points[0].config.meta.question if points
        else {'entity': 'user_id', 'outcome': 'true', 'history_days': 1} -%}
    {{ return(dict(defaults, **definition)) }}
{%- endmacro %}

{# The names of the questions with a yes or no outcome, but the first one, which is about sessions. #}
{% macro question_names() -%}
    {%- set names = [] -%}
    {%- for node in graph.get('nodes', {}).values() -%}
    {%- if node.resource_type == 'model' and 'question' in node.config.meta
        and 'item' not in node.config.meta.question -%}
    {%- do names.append(node.name | replace('_points', '')) -%}
    {%- endif -%}
    {%- endfor -%}
    {{ return(names | sort) }}
{%- endmacro %}

{#
    The body of <name>_events_at_point: for each point the events of its entity in the `history_days`
    up to it (without them all), the event at the point included. With `history: session_id` the points have a column
    session_id, and their events are those of that session.
#}
{% macro events_before_points(name) -%}
{%- set question = jollyboat.question(name) -%}
{%- set key = question.history or 'entity_id' -%}
with points as (
    select tenant_id, entity_id, point_at, {{ key }} as history_key
    from {{ ref(name ~ '_points') }}
    where {{ jollyboat.in_chunk('entity_id') }}
),

events as (
    select * from {{ ref('events') }}
    where not {{ jollyboat.is_feedback('source') }}
),

up_to_point as (
    select
        points.entity_id,
        points.point_at,
        row_number() over so_far as event_number,
        events.source,
        events.{{ jollyboat.canonical_columns() | join(',\n        events.') }}
    from points
    inner join events
        on points.tenant_id = events.tenant_id
        and points.history_key = events.{{ question.history or question.entity }}
        and events.occurred_at <= points.point_at
        {%- if question.history_days %}
        and events.occurred_at > points.point_at - {{ jollyboat.days(question.history_days) }}
        {%- endif %}
    window so_far as (
        partition by points.tenant_id, points.entity_id, points.point_at
        order by {{ jollyboat.event_order() }}
    )
)

select * from up_to_point
{%- endmacro %}

{#
    The body of <name>_features: each point with its features, its status and its label. A point is
    `open` until its horizon is over, and has `no_events` without an event in its history.
#}
{% macro labeled_features(name) -%}
{%- set question = jollyboat.question(name) -%}
{%- set features = ref(name ~ '_features_at_point') -%}
{%- do jollyboat.check_feature_names(features) -%}
with points as (
    select tenant_id, entity_id, point_at
    from {{ ref(name ~ '_points') }}
    where {{ jollyboat.in_chunk('entity_id') }}
),

features as (
    select * from {{ features }}
),

outcomes as (
    {{ jollyboat.outcomes_of(question) }}
),

sessions as (
    select tenant_id, session_id as entity_id, is_open from {{ ref('sessions') }}
),

{# The last moment by which a point's outcome has happened or never will. #}
data_end as (
    select tenant_id, received_until from {{ ref('int_tenant_data_end') }}
),

later as (
    select points.tenant_id, points.entity_id, points.point_at
    from points
    semi join outcomes
        on points.tenant_id = outcomes.tenant_id
        and points.entity_id = outcomes.entity_id
        and outcomes.occurred_at > points.point_at
        {%- if question.horizon_days %}
        and outcomes.occurred_at <= points.point_at + {{ jollyboat.days(question.horizon_days) }}
        {%- endif %}
),

labeled as (
    select
        points.tenant_id,
        points.entity_id,
        points.point_at,
        case
            when features.entity_id is null then 'no_events'
            {%- if question.horizon_days %}
            when points.point_at + {{ jollyboat.days(question.horizon_days) }}
                > data_end.received_until then 'open'
            {%- else %}
            when sessions.is_open then 'open'
            {%- endif %}
            else 'train'
        end as status,
        case
            when status = 'train'
                then (later.entity_id is {{ '' if question.is_absence else 'not ' }}null)
        end as label,
        {{ jollyboat.finite_columns(features, ['tenant_id', 'entity_id', 'point_at'], 'features.') }}
    from points
    inner join data_end using (tenant_id)
    left join features using (tenant_id, entity_id, point_at)
    left join later using (tenant_id, entity_id, point_at)
    left join sessions using (tenant_id, entity_id)
)

select * from labeled
{%- endmacro %}

{# The events that are a question's outcome, or whose absence is, with the entity of each. #}
{% macro outcomes_of(question) -%}
    select tenant_id, {{ question.entity }} as entity_id, occurred_at, received_at
    from {{ ref('events') }}
    where {{ question.entity }} is not null
        and not {{ jollyboat.is_feedback('source') }}
        and ({{ question.outcome }})
{%- endmacro %}

{#
    The server's answers to a question, with their outcomes: known when the event arrives, or when
    the horizon is over without one. It reads the CTEs all_answers and data_end of fct_predictions.
#}
{% macro answers_with_outcomes(name) -%}
{%- set question = jollyboat.question(name) -%}
{%- set answers %}
        select
            all_answers.*,
            {% if question.horizon_days -%}
            all_answers.point_at + {{ jollyboat.days(question.horizon_days) }} as over_at,
            all_answers.point_at + {{ jollyboat.days(question.horizon_days) }}
            <= data_end.received_until as is_over
            {%- else -%}
            sessions.ended_at as over_at,
            not sessions.is_open as is_over
            {%- endif %}
        from all_answers
        left join data_end
            on all_answers.tenant_id = data_end.tenant_id
        left join {{ ref('sessions') }} as sessions
            on all_answers.tenant_id = sessions.tenant_id
            and all_answers.entity_id = sessions.session_id
        where all_answers.question = '{{ name }}'
{%- endset %}
    select
        answers.* {{ jollyboat.without('over_at', 'is_over') }},
        cast(null as string) as session_id,
        false as had_outcome,
        case
            when outcomes.request_id is not null then {{ not question.is_absence }}
            when answers.is_over then {{ question.is_absence }}
        end as outcome,
        coalesce(
            outcomes.received_at, case when answers.is_over then answers.over_at end
        ) as outcome_known_at
    from ({{ answers }}
    ) as answers
    left join (
        select answers.tenant_id, answers.request_id, min(outcomes.received_at) as received_at
        from ({{ answers }}
        ) as answers
        inner join ({{ jollyboat.outcomes_of(question) }}) as outcomes
            on answers.tenant_id = outcomes.tenant_id
            and answers.entity_id = outcomes.entity_id
            and answers.point_at < outcomes.occurred_at
            {%- if question.horizon_days %}
            and answers.over_at >= outcomes.occurred_at
            {%- endif %}
        group by answers.tenant_id, answers.request_id
    ) as outcomes
        on answers.tenant_id = outcomes.tenant_id and answers.request_id = outcomes.request_id
{%- endmacro %}

{# Training, monitoring and review put columns with these names beside the features. #}
{% macro check_feature_names(features) -%}
    {%- set reserved = [
        'status', 'label', 'person_id', 'person', 'day', 'probability', 'score', 'threshold',
        'kind', 'turn'
    ] -%}
    {%- for column in (adapter.get_columns_in_relation(features) if execute else []) -%}
    {%- if column.name | lower in reserved -%}
    {{ exceptions.raise_compiler_error(
        'The feature ' ~ column.name ~ ' has a name that Jollyboat uses. '
        ~ 'Give it another name in ' ~ features.identifier ~ '.sql.'
    ) }}
    {%- endif -%}
    {%- endfor -%}
{%- endmacro %}
