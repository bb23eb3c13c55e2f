{#
    What DuckDB and Spark write differently, one macro for each. Everything else in the models after
    staging is written so that it means the same on both: docs/portable-sql.md.
#}

{# Hints for DuckDB, which materializes a CTE that is referenced twice. Spark has no such hint. #}
{% macro materialized() -%}
    {{ adapter.dispatch('materialized', 'jollyboat')() }}
{%- endmacro %}
{% macro default__materialized() %}materialized{% endmacro %}
{% macro spark__materialized() %}{% endmacro %}

{% macro not_materialized() -%}
    {{ adapter.dispatch('not_materialized', 'jollyboat')() }}
{%- endmacro %}
{% macro default__not_materialized() %}not materialized{% endmacro %}
{% macro spark__not_materialized() %}{% endmacro %}

{# After a star: all columns but these. #}
{% macro without() -%}
    {{ adapter.dispatch('without', 'jollyboat')(varargs | join(', ')) }}
{%- endmacro %}
{% macro default__without(columns) %}exclude ({{ columns }}){% endmacro %}
{% macro spark__without(columns) %}except ({{ columns }}){% endmacro %}

{# The value with the smallest or the largest position; values that are null do not count. #}
{% macro min_by(value, position) -%}
    {{ adapter.dispatch('min_by', 'jollyboat')(value, position) }}
{%- endmacro %}
{% macro default__min_by(value, position) %}min_by({{ value }}, {{ position }}){% endmacro %}
{% macro spark__min_by(value, position) -%}
    min_by({{ value }}, {{ position }}) filter (where {{ value }} is not null)
{%- endmacro %}

{% macro max_by(value, position) -%}
    {{ adapter.dispatch('max_by', 'jollyboat')(value, position) }}
{%- endmacro %}
{% macro default__max_by(value, position) %}max_by({{ value }}, {{ position }}){% endmacro %}
{% macro spark__max_by(value, position) -%}
    max_by({{ value }}, {{ position }}) filter (where {{ value }} is not null)
{%- endmacro %}

{# The number of different values. DuckDB's count(distinct) is slow on a server's few rows. #}
{% macro count_distinct(value) -%}
    {{ adapter.dispatch('count_distinct', 'jollyboat')(value) }}
{%- endmacro %}
{% macro default__count_distinct(value) %}len(list_distinct(list({{ value }}))){% endmacro %}
{% macro spark__count_distinct(value) %}count(distinct {{ value }}){% endmacro %}

{# One row for each of these expressions. #}
{% macro each_of() -%}
    {{ adapter.dispatch('each_of', 'jollyboat')(varargs | join(', ')) }}
{%- endmacro %}
{% macro default__each_of(values) %}unnest([{{ values }}]){% endmacro %}
{% macro spark__each_of(values) %}explode(array({{ values }})){% endmacro %}

{# The fields of each struct of a list, as columns of one row for each. #}
{% macro each_struct(list) -%}
    {{ adapter.dispatch('each_struct', 'jollyboat')(list) }}
{%- endmacro %}
{% macro default__each_struct(list) %}unnest({{ list }}, recursive := true){% endmacro %}
{% macro spark__each_struct(list) %}inline({{ list }}){% endmacro %}

{# A ratio that is infinite or NaN where it is divided by zero, which Spark refuses to compute. #}
{% macro ratio(part, whole) -%}
    {{ adapter.dispatch('ratio', 'jollyboat')(part, whole) }}
{%- endmacro %}
{% macro default__ratio(part, whole) %}({{ part }}) / ({{ whole }}){% endmacro %}
{% macro spark__ratio(part, whole) -%}
    case
        when ({{ whole }}) <> 0 then ({{ part }}) / ({{ whole }})
        when ({{ part }}) > 0 then cast('infinity' as double)
        when ({{ part }}) < 0 then cast('-infinity' as double)
        when ({{ part }}) = 0 and ({{ whole }}) = 0 then cast('nan' as double)
    end
{%- endmacro %}

{# The median of a window with a frame, and the discrete quantile of a window without one. #}
{% macro median(value) -%}
    {{ adapter.dispatch('median', 'jollyboat')(value) }}
{%- endmacro %}
{% macro default__median(value) %}median({{ value }}){% endmacro %}
{% macro spark__median(value) %}percentile({{ value }}, 0.5){% endmacro %}

{% macro quantile(value, share) -%}
    {{ adapter.dispatch('quantile', 'jollyboat')(value, share) }}
{%- endmacro %}
{% macro default__quantile(value, share) %}quantile_disc({{ value }}, {{ share }}){% endmacro %}
{% macro spark__quantile(value, share) -%}
    percentile_disc({{ share }}) within group (order by {{ value }})
{%- endmacro %}

{# The smallest element of a list that meets a condition, `element -> condition`. #}
{% macro least_element(list, condition) -%}
    {{ adapter.dispatch('least_element', 'jollyboat')(list, condition) }}
{%- endmacro %}
{% macro default__least_element(list, condition) -%}
    list_min(list_filter({{ list }}, {{ condition }}))
{%- endmacro %}
{% macro spark__least_element(list, condition) -%}
    array_min(filter({{ list }}, {{ condition }}))
{%- endmacro %}

{# Seconds with their fraction between two timestamps, and days between two dates. #}
{% macro seconds_between(start, end) -%}
    {{ adapter.dispatch('seconds_between', 'jollyboat')(start, end) }}
{%- endmacro %}
{% macro default__seconds_between(start, end) %}epoch({{ end }} - {{ start }}){% endmacro %}
{% macro spark__seconds_between(start, end) -%}
    (timestampdiff(microsecond, {{ start }}, {{ end }}) / 1e6)
{%- endmacro %}

{% macro days_between(start, end) -%}
    {{ adapter.dispatch('days_between', 'jollyboat')(start, end) }}
{%- endmacro %}
{% macro default__days_between(start, end) %}date_diff('day', {{ start }}, {{ end }}){% endmacro %}
{% macro spark__days_between(start, end) %}datediff({{ end }}, {{ start }}){% endmacro %}

{# The day of the week, from 1 (Monday) to 7. #}
{% macro weekday(moment) -%}
    {{ adapter.dispatch('weekday', 'jollyboat')(moment) }}
{%- endmacro %}
{% macro default__weekday(moment) %}isodow({{ moment }}){% endmacro %}
{% macro spark__weekday(moment) %}extract(dayofweek_iso from {{ moment }}){% endmacro %}

{# Spans of time. A session's silence may be a part of a minute. #}
{% macro days(count) -%}
    interval '{{ count }}' day
{%- endmacro %}

{% macro minutes(count) -%}
    interval '{{ (count * 60) | round | int }}' second
{%- endmacro %}

{# A number from 0 to buckets - 1, the same for the same text everywhere. #}
{% macro hash_bucket(text, buckets) -%}
    {{ adapter.dispatch('hash_bucket', 'jollyboat')(text, buckets) }}
{%- endmacro %}
{% macro default__hash_bucket(text, buckets) -%}
    cast('0x' || substr(md5({{ text }}), 1, 7) as bigint) % {{ buckets }}
{%- endmacro %}
{% macro spark__hash_bucket(text, buckets) -%}
    cast(conv(substr(md5({{ text }}), 1, 7), 16, 10) as bigint) % {{ buckets }}
{%- endmacro %}

{# Whether a text has a match of a pattern that RE2 and Java read alike. #}
{% macro matches(text, pattern) -%}
    {{ adapter.dispatch('matches', 'jollyboat')(text, pattern) }}
{%- endmacro %}
{% macro default__matches(text, pattern) %}regexp_matches({{ text }}, '{{ pattern }}'){% endmacro %}
{% macro spark__matches(text, pattern) %}regexp_like({{ text }}, '{{ pattern }}'){% endmacro %}

{# A struct with these fields of a JSON object in a text: {'name': 'type'}. #}
{% macro json_struct(text, types) -%}
    {{ adapter.dispatch('json_struct', 'jollyboat')(text, types) }}
{%- endmacro %}

{% macro default__json_struct(text, types) -%}
    json_transform({{ text }}, '{{ tojson(types) }}')
{%- endmacro %}

{% macro spark__json_struct(text, types) -%}
    {%- set fields = [] -%}
    {%- for name, type in types.items() %}{% do fields.append(name ~ ' ' ~ type) %}{% endfor -%}
    from_json({{ text }}, '{{ fields | join(', ') }}')
{%- endmacro %}
