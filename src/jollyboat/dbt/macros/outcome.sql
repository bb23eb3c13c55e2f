{#
    Whether the outcome reads session_id and no other column but tenant_id. Then it is a property of
    the session (a test of the gate makes it chance), and it does not happen before the point.
#}
{% macro outcome_is_of_session() -%}
    {%- set others = jollyboat.canonical_columns()
        + ['source', 'event_number', 'file', 'line_number', 'arrived_on'] -%}
    {%- set names = modules.re.findall('[A-Za-z_]+', var('outcome')) -%}
    {{ return(
        'session_id' in names
        and not (others | reject('in', ['session_id', 'tenant_id']) | select('in', names) | list)
    ) }}
{%- endmacro %}
