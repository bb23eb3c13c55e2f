{% macro canonical_columns() -%}
    {{ return([
        'tenant_id', 'event_id', 'event_type', 'occurred_at', 'received_at', 'sequence',
        'anonymous_id', 'user_id', 'session_id', 'order_id', 'product_id',
        'price', 'quantity', 'currency', 'category', 'query',
        'page', 'url', 'referrer', 'channel', 'device', 'country', 'payload'
    ]) }}
{%- endmacro %}

{#
    The order of events, everywhere: by time, then by the emitter's sequence number, then by the
    lines of the files. bundles/features.py has the same order, with that of the request's events.
#}
{% macro event_order() -%}
    occurred_at, sequence nulls last, file, line_number, part
{%- endmacro %}

{#
    The end of a staging model: canonical events from a CTE with the columns of raw_records() and
    the canonical columns that the source has, as text. Columns that the CTE lacks are null.
    received_at defaults to occurred_at, payload to the whole record, event_id to the md5 of
    tenant, source, record and part. A record that cannot be an event keeps its line and a reason;
    models.yml lists the reasons under quarantined_events. A record with `left_out` is counted and
    is no event. Rows made of one record differ in `part`.
#}
{% macro canonical_events(cte) -%}
    {%- set other_columns = [
        'tenant_id', 'occurred_at', 'received_at', 'price', 'quantity', 'sequence', 'payload'
    ] -%}
    {%- set ids = ['event_id', 'anonymous_id', 'user_id', 'session_id', 'order_id'] -%}
    {%- set latest = 'arrived_on + interval (' ~ var('future_tolerance_days') ~ ') day' -%}
    {%- set earliest_year = var('first_year') -%}
    {%- set structure -%}
        cast(
            json_structure(
                case
                    when regexp_matches(file, '(?i)[.](csv|tsv)([.]|$)')
                        then {{ jollyboat.typed_cells('record') }}
                    else record
                end
            ) as varchar
        )
    {%- endset -%}
    , jollyboat_records as (
        select * from {{ cte }}
    )

    {#- A query of its own: a staging model may have CTEs with the names below. #}
    select *
    from (
    with template as (
        select
            {%- for column in jollyboat.canonical_columns() %}
            cast(null as varchar) as {{ column }},
            {%- endfor %}
            cast(null as varchar) as left_out,
            cast(null as integer) as part,
            cast(null as varchar) as record
        where false
    ),

    filled as (
        select * from template
        union all by name
        select * from jollyboat_records
    ),

    {#- Columns by name: a staging model may have others, also with the names used below. #}
    trimmed as (
        select
            source,
            file,
            file_seq,
            arrived_on,
            line_number,
            line,
            landing_reason,
            record,
            try_cast(left_out as boolean) is true as is_left_out,
            coalesce(try_cast(part as integer), 1) as part,
            {%- for column in jollyboat.canonical_columns() if column != 'payload' %}
            {{ jollyboat.whole_number(jollyboat.text(column)) if column in ids + ['product_id']
                else jollyboat.text(column) }} as {{ column }},
            {%- endfor %}
            {{ jollyboat.hash_personal('cast(coalesce(payload, record) as varchar)') }} as payload
        from filled
    ),

    identified as (
        select
            * replace (
                {%- for column in ids %}
                case when not {{ jollyboat.is_placeholder(column) }} then {{ column }} end
                    as {{ column }}{{ '' if loop.last else ',' }}
                {%- endfor %}
            ),
            nullif(
                concat_ws(
                    ', '
                    {%- for column in ids %},
                    case
                        when {{ jollyboat.is_placeholder(column) }}
                        then '{{ column }} ' || {{ column }}
                    end
                    {%- endfor %}
                ),
                ''
            ) as ignored_ids
        from trimmed
    ),

    typed as (
        select
            * exclude (occurred_at, received_at) replace (
                {%- for column in jollyboat.canonical_columns() if column not in other_columns %}
                {{ jollyboat.hash_addresses(column) }} as {{ column }},
                {%- endfor %}
                {{ jollyboat.amount('price') }} as price,
                {{ jollyboat.amount('quantity') }} as quantity,
                try_cast(sequence as bigint) as sequence,
                {{ jollyboat.hash_addresses('payload') }} as payload
            ),
            occurred_at as given_occurred_at,
            price as given_price,
            quantity as given_quantity,
            {{ jollyboat.utc_timestamp('occurred_at') }} as parsed_occurred_at,
            {{ jollyboat.utc_timestamp('received_at') }} as parsed_received_at
        from identified
    ),

    classified as (
        select
            * exclude (event_id, parsed_occurred_at, parsed_received_at) replace (
                case when price >= 0 then price end as price,
                case when quantity >= 0 then try_cast(quantity as integer) end as quantity
            ),
            parsed_occurred_at as occurred_at,
            case
                when
                    year(parsed_received_at) >= {{ earliest_year }}
                    and parsed_received_at <= {{ latest }}
                    then parsed_received_at
                else parsed_occurred_at
            end as received_at,
            case
                when length(event_id) <= 200 then event_id
                else md5(
                    concat_ws(
                        '|', tenant_id, source, coalesce(event_id, record), nullif(part, 1)
                    )
                )
            end as event_id,
            case
                when landing_reason is not null then landing_reason
                when record is null and left(ltrim(line, e' \t'), 1) in ('{', '')
                    then 'unparsable'
                when record is null then 'not_an_object'
                when is_left_out then 'left_out'
                when tenant_id is null then 'no_tenant'
                when not regexp_matches(tenant_id, '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$')
                    then 'malformed_tenant'
                when event_type is null then 'no_event_type'
                when given_occurred_at is null then 'no_time'
                when parsed_occurred_at is null then 'malformed_time'
                when parsed_occurred_at > {{ latest }} then 'in_the_future'
                when year(parsed_occurred_at) < {{ earliest_year }} then 'too_long_ago'
            end as reason
        from typed
    )

    select
        source,
        file,
        file_seq,
        arrived_on,
        line_number,
        part,
        ignored_ids,
        reason,
        case
            when reason is null or reason = 'left_out' then null
            when
                left(ltrim(line, e' \t'), 1) = '{'
                and coalesce(landing_reason, '') not in ('csv_width', 'line_too_long')
                then {{ jollyboat.hash_addresses(jollyboat.hash_personal('line')) }}
            {# No key says what is personal, so only the line's form is kept. #}
            else regexp_replace(regexp_replace(line, '\pL', 'x', 'g'), '\pN', '#', 'g')
        end as line,
        {# The record's fields and types, for a sample: it costs ten times what reading does. #}
        case
            when (line_number <= 500 or line_number % 100 = 0) and part <= 1
                then {{ jollyboat.hash_addresses(structure) }}
        end as structure,
        {{ jollyboat.unread_amount('given_price', 'price') }} as unread_price,
        {{ jollyboat.unread_amount('given_quantity', 'quantity') }} as unread_quantity,
        {# A tenant's name is hashed last: the hash of an address would be a valid name. #}
        {{ jollyboat.hash_addresses('tenant_id') }} as tenant_id,
        {{ jollyboat.canonical_columns() | reject('eq', 'tenant_id') | join(',\n        ') }}
    from classified
    )
{%- endmacro %}

{#
    The rows of a CTE, one for each element of a JSON list in it, with the columns `element` (JSON)
    and `part` (from 1). A row without elements stays one row, and its `element` is null.
#}
{% macro each_element(cte, list) -%}
    (
        select
            *,
            unnest(coalesce(nullif(json_extract({{ list }}, '$[*]'), []), [null])) as element,
            unnest(
                range(1, 1 + greatest(1, cast(json_array_length({{ list }}) as bigint)))
            ) as part
        from {{ cte }}
    )
{%- endmacro %}

{#
    A staging model of what this project feeds back, by the names of its fields. Ids stay in the
    payload: canonical columns make sessions and persons, and a prediction is part of neither.
#}
{% macro feedback_events(event_type, event_id, occurred_at) -%}
    with records as (
        select * from {{ jollyboat.raw_records() }}
    ),

    mapped as (
        select
            *,
            record ->> 'tenant_id' as tenant_id,
            record ->> '{{ event_id }}' as event_id,
            '{{ event_type }}' as event_type,
            record ->> '{{ occurred_at }}' as occurred_at
        from records
    )

    {{ jollyboat.canonical_events('mapped') }}
{%- endmacro %}

{% macro text(column) -%}
    nullif(trim({{ column }}), '')
{%- endmacro %}

{# An id without the ".0" of a whole number that passed through a column of floats. #}
{% macro whole_number(text) -%}
    case
        when suffix({{ text }}, '0') then regexp_replace({{ text }}, '^(-?[0-9]+)[.]0+$', '\1')
        else {{ text }}
    end
{%- endmacro %}

{# Whether an id is what an emitter sends that has none; bundles/features.py has the same texts. #}
{% macro is_placeholder(id) -%}
    regexp_full_match(
        {{ id }},
        '[-0.]+|-1|null|nil|none|nan|n/a|undefined|unknown|anonymous|guest|[(]not set[)]'
        || '|[\[]object object[\]]',
        'i'
    )
{%- endmacro %}

{#
    A text's hash with the project's salt. The same text has the same hash in every source, and the
    hash does not reveal the text.
#}
{% macro hash_text(text) -%}
    left(sha256(getvariable('salt') || ({{ text }})), 32)
{%- endmacro %}

{#
    JSON text, valid or not, in which the values of the keys in vars: personal_fields are hashed,
    at any depth. A value may itself be four groups deep. In JSON inside a text, where each quote
    is escaped, only texts and numbers are hashed. jollyboat/store/personal.py does the same.
#}
{% macro hash_personal(json) -%}
    {%- set key %}\\*"(?:{{ var('personal_fields') | join('|') }})\\*"\s*:\s*{% endset -%}
    {%- set text %}"(?:[^"\\]|\\.)*"?{% endset -%}
    {%- set group = namespace(inner='') -%}
    {%- for _ in range(4) -%}
        {%- set group.inner = '|[\\[{](?:[^\\[\\]{}"]|' ~ text ~ group.inner ~ ')*[\\]}]?' -%}
    {%- endfor -%}
    {%- set escaped %}|\\+"[^"\\]*\\*"?{% endset -%}
    {%- set value = text ~ '|[-0-9][-+.0-9eE]*' ~ group.inner ~ escaped -%}
    {%- set pair_value -%}
        replace(trim(regexp_replace(part, '(?i)^{{ key }}', ''), '"\'), '%40', '@')
    {%- endset -%}
    {%- set hashed -%}
        regexp_extract(part, '(?i)^{{ key }}') || regexp_extract(part, '^\\*"')
        || {{ jollyboat.hash_text(pair_value) }} || regexp_extract(part, '^\\*"')
    {%- endset -%}
    {{ jollyboat.replace_parts(json, '(?i)' ~ key ~ '(?:' ~ value ~ ')', hashed) }}
{%- endmacro %}

{#
    Text in which every word that looks like an e-mail address is replaced by its hash. The at sign
    may be escaped as in an url (also twice) or in JSON. jollyboat/store/personal.py does the same.
#}
{% macro hash_addresses(text) -%}
    {%- set at_sign %}(?:@|%(?:25)?40|\\{1,8}u0040){% endset -%}
    {%- set word %}(?:[^ \t\r\n\f\v"\\<>,;:/?&=()\[\]{}|]|\\{1,8}u0040)+{% endset -%}
    {%- set address = "regexp_replace(part, '" ~ at_sign ~ "', '@', 'g')" -%}
    case
        when contains({{ text }}, '@') or contains({{ text }}, '%40')
            or contains({{ text }}, '%2540') or contains({{ text }}, 'u0040')
            then {{ jollyboat.replace_parts(
                text, word ~ at_sign ~ word, jollyboat.hash_text(address)
            ) }}
        else {{ text }}
    end
{%- endmacro %}

{# Text in which each match of a pattern, `part`, is replaced by an expression; in linear time. #}
{% macro replace_parts(text, pattern, expression) -%}
    case
        when regexp_matches({{ text }}, '{{ pattern }}')
            then array_to_string(
                list_transform(
                    list_zip(
                        string_split_regex({{ text }}, '{{ pattern }}'),
                        list_transform(
                            regexp_extract_all({{ text }}, '{{ pattern }}'), part -> {{ expression }}
                        )
                    ),
                    pair -> pair[1] || coalesce(pair[2], '')
                ),
                ''
            )
        else {{ text }}
    end
{%- endmacro %}

{#
    A timestamp in UTC without zone from text: ISO with or without an offset, comma decimals, epoch
    seconds, milli- or microseconds. UTC and GMT are the only zones that may have a name, because
    names such as BST and IST are ambiguous. After any other name DuckDB reads the following times
    without a zone in that zone.
#}
{% macro utc_timestamp(column) -%}
    {{ adapter.dispatch('utc_timestamp', 'jollyboat')(column) }}
{%- endmacro %}

{# Times that this project itself wrote, which staging has not read: ISO, or an epoch number. #}
{% macro spark__utc_timestamp(column) -%}
    {%- set plain = "replace(" ~ column ~ ", ',', '.')" -%}
    {%- set number = "try_cast(" ~ column ~ " as double)" -%}
    {%- set time = '[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?' -%}
    {%- set zone = '(Z|[-+][0-9]{2}(:?[0-9]{2})?)?' -%}
    {%- set iso = '^[0-9]{4}-[0-9]{2}-[0-9]{2}(' ~ time ~ zone ~ ')?$' -%}
    case
        when {{ number }} is null and regexp_like({{ plain }}, '{{ iso }}')
            then cast(try_cast({{ plain }} as timestamp_ltz) as timestamp_ntz)
        when {{ number }} between 1e8 and 1e11
            then cast(timestamp_micros(cast({{ number }} * 1e6 as bigint)) as timestamp_ntz)
        when {{ number }} between 1e11 and 1e14
            then cast(timestamp_micros(cast({{ number }} * 1e3 as bigint)) as timestamp_ntz)
        when {{ number }} between 1e14 and 1e17
            then cast(timestamp_micros(cast({{ number }} as bigint)) as timestamp_ntz)
    end
{%- endmacro %}

{% macro default__utc_timestamp(column) -%}
    {%- set number = "try_cast(" ~ column ~ " as double)" -%}
    {%- set plain = "replace(" ~ column ~ ", ',', '.')" -%}
    {%- set zone = '(?: ?(?:UTC|GMT))? ?([-+][0-9]{2}):?([0-9]{2})$' -%}
    {%- set minutes = '([T ][0-9]{2}:[0-9]{2})([-+Z])' -%}
    {%- set iso = "regexp_replace(upper(" ~ plain ~ "), ' ?(?:UTC|GMT|Z)$', 'Z')" -%}
    {%- set iso = "regexp_replace(" ~ iso ~ ", '" ~ zone ~ "', '\\1:\\2')" -%}
    {%- set iso = "regexp_replace(" ~ iso ~ ", '" ~ minutes ~ "', '\\1:00\\2')" -%}
    {%- set moment = "coalesce(" ~ jollyboat.moment(plain) ~ ", " ~ jollyboat.moment(iso) ~ ")" -%}
    case
        when not isfinite({{ number }}) then null
        when {{ number }} is null then make_timestamp(epoch_us({{ moment }}))
        when {{ number }} between 1e8 and 1e11
            then make_timestamp(cast({{ number }} * 1e6 as bigint))
        when {{ number }} between 1e11 and 1e14
            then make_timestamp(cast({{ number }} * 1e3 as bigint))
        when {{ number }} between 1e14 and 1e17
            then make_timestamp(cast({{ number }} as bigint))
    end
{%- endmacro %}

{% macro moment(text) -%}
    try_cast(
        case when regexp_full_match({{ text }}, '[-+0-9T:./ ]+Z?') then {{ text }} end
        as timestamptz
    )
{%- endmacro %}

{#
    A CSV's row, a JSON object of texts, with null for a blank cell and 0 for a cell with a number:
    only its fields and their types are read.
#}
{% macro typed_cells(record) -%}
    regexp_replace(
        regexp_replace({{ record }}, '": " *"', '": null', 'g'),
        '": " *[-+]?[0-9]+(?:[.,][0-9]+)? *"', '": 0', 'g'
    )
{%- endmacro %}

{#
    An exact number from text, which may have a currency's sign, grouped digits (1,299.00, 1.299,00,
    1 299, 1'299) or a decimal comma. Null if it is no number. Null also if its only mark stands
    before the last three of four to six digits: 1,299 may be 1299 or 1.299. A JSON number, which
    the record has without quotes, always has a decimal point.
#}
{% macro amount(column) -%}
    {%- set text = "trim(translate(" ~ column ~ ", '\u00a0\u202f’', '  '''), ' $€£¥₹')" -%}
    {%- set start = '[-+]?[1-9][0-9]{0,2}' -%}
    {%- set spaced = "(?: [0-9]{3})+|(?:''[0-9]{3})+" -%}
    {%- set grouped = {
        'point': start ~ "(?:(?:,[0-9]{2,3})*,[0-9]{3}|" ~ spaced ~ ")(?:\\.[0-9]*)?",
        'comma': start ~ "(?:(?:\\.[0-9]{3})+|" ~ spaced ~ "),[0-9]*",
        'none': start ~ "(?:\\.[0-9]{3}){2,}"
    } -%}
    try_cast(
        case
            when
                regexp_full_match({{ column }}, '[0-9]+(?:\.(?:[0-9]{1,2}|[0-9]{4,}))?')
                then {{ column }}
            when
                regexp_full_match({{ text }}, '{{ start }}[.,][0-9]{3}')
                and (
                    contains({{ text }}, ',')
                    or record is null
                    or contains(replace(record, ' ', ''), '"' || {{ column }} || '"')
                )
                then null
            when regexp_full_match({{ text }}, '{{ grouped.point }}')
                then regexp_replace({{ text }}, '[, '']', '', 'g')
            when regexp_full_match({{ text }}, '{{ grouped.comma }}|[-+]?[0-9]*,[0-9]+')
                then replace(regexp_replace({{ text }}, '[. '']', '', 'g'), ',', '.')
            when regexp_full_match({{ text }}, '{{ grouped.none }}')
                then replace({{ text }}, '.', '')
            when regexp_full_match({{ text }}, '[-+.0-9eE]+') then {{ text }}
        end
        as decimal(18, 4)
    )
{%- endmacro %}

{#
    The form of a text that gave no amount: digits become 9, letters x. It is null if the amount is
    known.
#}
{% macro unread_amount(text, amount) -%}
    case
        when {{ amount }} is null
        then left(
            regexp_replace(
                regexp_replace({{ text }}, '[0-9]', '9', 'g'), '[^9.,'' $€£¥+-]', 'x', 'g'
            ),
            20
        )
    end
{%- endmacro %}
