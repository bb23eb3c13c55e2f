{#
    A field of a text that may be JSON, as text; null where the text is empty or no JSON. More keys
    lead further in. A key may begin with `$` or have a dot; a number is a place in an array.
#}
{% macro json_field(text) -%}
    {{ adapter.dispatch('json_field', 'jollyboat')(text, *varargs) }}
{%- endmacro %}

{% macro default__json_field(text) -%}
    {%- set path = namespace(text='') -%}
    {%- for key in varargs -%}
        {%- set escaped = key | string | replace('~', '~0') | replace('/', '~1') -%}
        {%- set path.text = path.text ~ '/' ~ escaped | replace("'", "''") -%}
    {%- endfor -%}
    case when json_valid({{ text }}) then json_extract_string({{ text }}, '{{ path.text }}') end
{%- endmacro %}

{% macro spark__json_field(text) -%}
    {%- set path = namespace(text='$') -%}
    {%- for key in varargs -%}
        {%- set place = key if key is integer else "'" ~ key ~ "'" -%}
        {%- set path.text = path.text ~ '[' ~ place ~ ']' -%}
    {%- endfor -%}
    get_json_object({{ text }}, "{{ path.text }}")
{%- endmacro %}

{#
    The value of a key in a JSON array of {"key": ..., "value": ...}, as text. GA4 wraps the value
    in an object by its type; the first value that is not null counts.
#}
{% macro key_value(text, key) -%}
    {%- set name = key | replace("'", "''") -%}
    {%- set pairs -%}
        case
            when json_valid({{ text }})
                then from_json({{ text }}, '[{"key": "VARCHAR", "value": "JSON"}]')
        end
    {%- endset -%}
    list_transform(
        list_filter({{ pairs }}, pair -> pair.key = '{{ name }}'),
        pair -> case
            when json_type(pair.value) = 'OBJECT'
                then list_filter(json_extract_string(pair.value, '$.*'), v -> v is not null)[1]
            else pair.value ->> '$'
        end
    )[1]
{%- endmacro %}

{#
    A device from a browser's user agent: bot, tablet, mobile or desktop. The words are those of
    common crawlers, monitors and scripts; a bot that calls itself a browser is not among them.
#}
{% macro device(user_agent) -%}
    {%- set bot -%}
        (?i)(?:^|[^u])bot|crawl|spider|slurp|scrap|archiver|headless|lighthouse|pingdom|uptime|httrack
    {%- endset -%}
    {%- set script -%}
        |monitor|validator|preview|externalhit|feedfetcher|mediapartners|google-inspection|googleother
    {%- endset -%}
    {%- set probe -%}
        |health.?check|googlehc|kube-probe|statuscake|prometheus|blackbox|^whatsapp|apis-google
    {%- endset -%}
    {%- set tool -%}
        |^curl|^wget|postman|insomnia|apachebench|^k6/|(?:chatgpt|claude|perplexity)-user
    {%- endset -%}
    {%- set client -%}
        |python|^java[-/]|go-http|libwww|httpclient|axios|node-fetch|^node$|undici|guzzle|phantomjs
    {%- endset -%}
    case
        when {{ user_agent }} is null then null
        when regexp_matches({{ user_agent }}, '{{ bot ~ script ~ probe ~ tool ~ client }}') then 'bot'
        when regexp_matches({{ user_agent }}, '(?i)ipad|tablet') then 'tablet'
        when regexp_matches({{ user_agent }}, '(?i)mobi|iphone|ipod') then 'mobile'
        when regexp_matches({{ user_agent }}, '(?i)android') then 'tablet'
        else 'desktop'
    end
{%- endmacro %}
