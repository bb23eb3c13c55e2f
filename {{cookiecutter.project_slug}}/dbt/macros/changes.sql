{# Before an incremental model runs: delete what a build's changes leave wrong, so that the model adds what is missing. #}
{% macro forget(condition, table=none) -%}
    {%- set table = table or this -%}
    {%- if execute and not flags.FULL_REFRESH and adapter.get_relation(table.database, table.schema, table.name) -%}
        delete from {{ table }} where {{ condition }}
    {%- endif -%}
{%- endmacro %}

{# The events as the build before left them, as a query; none in a full build. #}
{% macro events_before() -%}
    {%- if execute and not flags.FULL_REFRESH and model.config.materialized != 'unit' -%}
        {%- set events = adapter.get_relation(this.database, this.schema, 'events') -%}
        {%- set files = api.Relation.create(this.database, this.schema, 'landed_files') -%}
        {%- if events -%}
            {{ return('(select files.file_seq, events.* from ' ~ events ~ ' as events inner join ' ~ files ~ ' as files using (file))') }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{# Whether a build decides anew of an event; no ref, for what asks comes after int_first_records, which has it. #}
{% macro is_told() -%}
    {%- if is_incremental() -%}
        (tenant_id, event_id) in (select (tenant_id, event_id) from {{ told_events() }})
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{% macro told_events() -%}
    {{ api.Relation.create(this.database, this.schema, 'int_told_events') }}
{%- endmacro %}

{# Whether the table lacks a row of that id: all do, in a full build. #}
{% macro is_missing(id) -%}
    {%- if is_incremental() -%}
        (tenant_id, {{ id }}) not in (select (tenant_id, {{ id }}) from {{ this }})
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{% macro gone_events() -%}
    (file, line_number) in (
        select (file, line_number) from {{ ref('int_changes') }} inner join {{ ref('landed_files') }} using (file_seq) where is_gone
    )
{%- endmacro %}

{# Whether a session has other events, or the same at other places, than before. #}
{% macro has_changed(session='session_id') -%}
    (tenant_id, {{ session }}) in (select (tenant_id, session_id) from {{ ref('int_changes') }} where session_id is not null)
{%- endmacro %}

{#
    Before a lookup goes on: the keys that are stale, and of their rows those that stood on the day of the first change, as
    temporary tables. These and all later ones of their keys are deleted, for the model to add them anew.
#}
{% macro go_on(keys) -%}
    {%- set changes, events, of_changed_sessions = ref('int_changes'), ref('events'), has_changed() -%}
    {%- if execute and not flags.FULL_REFRESH and adapter.get_relation(this.database, this.schema, this.name) -%}
        {%- do run_query(
            "create or replace temp table changed as select tenant_id, received_at, " ~ keys ~ " as keys from " ~ changes
            ~ " union all select tenant_id, received_at, " ~ keys ~ " from " ~ events ~ " where " ~ of_changed_sessions
        ) -%}
        {%- do run_query("set variable changed_on = (select min(cast(received_at as date)) from changed)") -%}
        {%- do run_query("create or replace temp table stale as select distinct tenant_id, unnest(keys) as key from changed") -%}
        {%- do run_query(
            "create or replace temp table standing as select * from " ~ this ~ " semi join stale using (tenant_id, key) "
            "where valid_from <= getvariable('changed_on') and (valid_to > getvariable('changed_on') or valid_to is null)"
        ) -%}
        delete from {{ this }}
        where (tenant_id, key) in (select (tenant_id, key) from stale) and (valid_to > getvariable('changed_on') or valid_to is null)
    {%- endif -%}
{%- endmacro %}

{# Whether a lookup needs an event to go on: one of a stale key, in a session that goes beyond the day of the first change. #}
{% macro is_needed(key='key') -%}
    {%- if is_incremental() -%}
        (tenant_id, {{ key }}) in (select (tenant_id, key) from stale)
        and (tenant_id, session_id) in (
            select (tenant_id, session_id) from {{ ref('events') }} as recent where received_at >= getvariable('changed_on')
        )
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{% macro visitor_keys() -%}
    ['a:' || anonymous_id, 'u:' || user_id]
{%- endmacro %}

{# A row's key among the visitor's where it is of one id, of id_kind anonymous or user. #}
{% macro identity_key() -%}
    left(id_kind, 1) || ':' || id
{%- endmacro %}

{# Whether a build decides anew whose an id is. #}
{% macro is_told_id(key) -%}
    {%- set told = ref('int_told_ids') -%}
    {%- if is_incremental() -%}
        (tenant_id, {{ key }}) in (select (tenant_id, key) from {{ told }})
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{# Both ends are told where one has changed, for int_told_ids has what was seen together with it. #}
{% macro is_told_link() -%}
    {{ is_told_id("'a:' || anonymous_id") }} and {{ is_told_id("'u:' || user_id") }}
{%- endmacro %}

{# Sessions to be judged anew: with other events, that people judged, whose end the logs' end has not passed, of another person. #}
{% macro stale_sessions() -%}
    is_open
    or {{ has_changed() }}
    or (tenant_id, session_id) in (select (tenant_id, entity_id) from {{ ref('judgements') }})
    or ended_at > (
        select max(received_at) - interval ({{ var('session_silence_minutes') }}) minute
        from {{ ref('events') }} where not {{ is_feedback('source') }}
    )
    or (tenant_id, session_id) in (
        select (known.tenant_id, known.session_id)
        from (
            select * from {{ this }}
            where {{ is_told_id("'a:' || anonymous_id") }} or {{ is_told_id("'u:' || user_id") }}
        ) as known
        {{ join_persons('known') }}
        where known.person_id != {{ person_of('known') }}
    )
{%- endmacro %}

{# The account says more than a device that it may share; who carries no id is nobody else. #}
{% macro person_of(session) -%}
    coalesce(accounts.person_id, devices.person_id, 's:' || {{ session }}.session_id)
{%- endmacro %}

{% macro join_persons(session) -%}
    left join {{ ref('int_identities') }} as accounts
        on {{ session }}.tenant_id = accounts.tenant_id and {{ session }}.user_id = accounts.id and accounts.id_kind = 'user'
    left join {{ ref('int_identities') }} as devices
        on {{ session }}.tenant_id = devices.tenant_id and {{ session }}.anonymous_id = devices.id and devices.id_kind = 'anonymous'
{%- endmacro %}

{# Answers to be joined with outcomes anew: of which nothing is known yet, or whose visitor or session has other events. #}
{% macro stale_predictions() -%}
    is_waiting
    or {{ has_changed() }}
    or {{ has_changed('entity_id') }}
    or (tenant_id, coalesce('a:' || anonymous_id, 'u:' || user_id)) in (
        select (tenant_id, unnest({{ visitor_keys() }})) from {{ ref('int_changes') }}
        union
        select (tenant_id, unnest({{ visitor_keys() }})) from {{ ref('events') }} as carriers where {{ has_changed() }}
    )
    or (tenant_id, session_id) in (select (tenant_id, session_id) from {{ ref('sessions') }} where is_open)
    or (tenant_id, request_id) in (select (tenant_id, event_id) from {{ ref('int_changes') }})
{%- endmacro %}

{# Features to be computed anew: of sessions with other events or another status, and from the day on of which slow statistics changed. #}
{% macro stale_features() -%}
    (tenant_id, entity_id) not in (
        select (judged.tenant_id, judged.session_id)
        from {{ ref('sessions') }} as judged
        inner join {{ api.Relation.create(this.database, this.schema, 'session_features') }} as known
            on judged.tenant_id = known.tenant_id and judged.session_id = known.entity_id
        where judged.status = known.status and judged.label is not distinct from known.label
    )
    or {{ has_changed('entity_id') }}
    or cast(point_at as date) > (select min(cast(received_at as date)) from {{ ref('int_changes') }})
{%- endmacro %}
