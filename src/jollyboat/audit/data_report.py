"""The report of a data run: figures, lines for the terminal and a page."""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import duckdb

from jollyboat.audit import absent_fields, held
from jollyboat.audit.audit import Finding, find_suites
from jollyboat.landing import remedies
from jollyboat.landing.landing import Landing
from jollyboat.pages import page
from jollyboat.pages.terminal import format_count, join_lines
from jollyboat.snapshots import distribution, snapshot
from jollyboat.store import LIBRARY, Store, quoted, read_json
from jollyboat.warehouse import changes
from jollyboat.warehouse.warehouse import code_fingerprint, connect, last_models, published_tables

MOST_CHANGES, MOST_REASONS, MOST_FILES = 8, 5, 50
# The variable in dbt/dbt_project.yml behind a reason.
LIMITS = {"in_the_future": "future_tolerance_days", "too_long_ago": "first_year"}
# By the table whose days can be accepted.
ACCEPTANCE = {
    "missing_ids": "Fix the staging model of a day without visitors, name a source that has none "
    "under vars: back_end_sources in dbt/dbt_project.yml, or accept all these days: "
    "`jollyboat land --accept`.",
    "tenant_days": "Compare the staging model with the records of these days. If the days are as "
    "they should be, accept them: `jollyboat land --accept`.",
}
QUERIES = {
    "sources": """
        select source, count(*) as file_count, sum(line_count - blank_count) as record_count,
            sum(event_count) as event_count, sum(duplicate_count) as duplicate_count,
            sum(quarantined_count) as quarantined_count, sum(missing_count) as missing_count,
            sum(left_out_count) as left_out_count, sum(further_count) as further_count,
            sum(held_back_count) as held_back_count
        from record_reconciliation group by source order by source""",
    "files": """
        select file, line_count - blank_count as record_count, event_count, duplicate_count,
            quarantined_count
        from record_reconciliation where quarantined_count > 0
        order by quarantined_count desc, file limit 20""",
    "quarantine": """
        with reasons as (
            select source, reason, count(*) as record_count,
                min((file, line_number)) as first_place,
                min_by(left(line, 2000), (file, line_number)) as line
            from quarantined_events
            group by all order by record_count desc, source, reason limit 50),
        without_words as (
            select * replace (
                if(json_valid(line), line, regexp_replace(line, '\\pL', 'x', 'g')) as line)
            from reasons),
        masked as (
            select * replace (regexp_replace(
                line, '[^\\s"''<>,;:]+(@|%40)[^\\s"''<>,;]+', '…@…', 'g') as line)
            from without_words)
        select source, reason, record_count, first_place[1] as first_file,
            first_place[2] as first_line_number,
            left(regexp_replace(line, '\\p{N}', '#', 'g'), 80) as first_text
        from masked order by record_count desc, source, reason""",
    "event_types": """
        select event_type, count(*) as event_count, count(distinct tenant_id) as tenant_count,
            min(occurred_at) as first_seen_at
        from events group by all order by event_count desc, event_type limit 30""",
    "habits": """
        with orders as (
            select source, count(*) as order_count from (
                select source from events where is_outcome and order_id is not null
                group by tenant_id, source, order_id having count(*) > 1) group by all),
        named as (
            select source, count_if(session_id is null) as nameless_count
            from int_deduplicated_records where same_order_as is null group by all)
        select source, count_if(occurred_at::date < arrived_on) as late_count,
            max(epoch(received_at - occurred_at)) / 3600 as latest_hours,
            count_if(received_at < occurred_at) as early_count,
            coalesce(any_value(order_count), 0) as repeated_order_count,
            any_value(nameless_count) as nameless_count,
            count_if(events.session_id is null) as homeless_count
        from events inner join named using (source) left join orders using (source)
        where event_type not in ('prediction', 'judgement') group by all order by source""",
    "ignored_ids": """
        with ids as (
            select source, unnest(string_split(ignored_ids, ', ')) as ignored_id
            from int_records where ignored_ids is not null)
        select source, ignored_id, count(*) as record_count
        from ids group by all order by record_count desc, source, ignored_id limit 5""",
    "crowded_ids": """
        with ids as (
            unpivot (
                select tenant_id, source, anonymous_id, user_id, session_id,
                    date_trunc('hour', occurred_at) as hour,
                    concat_ws(' ', device, country) as place
                from events where device is distinct from 'bot')
            on anonymous_id, user_id into name id_column value id),
        busy_hours as (
            select tenant_id, source, id_column, id, hour
            from ids group by all having count(*) >= 20)
        select source, id_column, id, count(distinct session_id) as session_count,
            count(distinct place) as place_count
        from ids semi join busy_hours using (tenant_id, source, id_column, id, hour)
        group by tenant_id, source, id_column, id, hour
        having session_count >= 20 or place_count >= 5
        qualify 1 = row_number() over (
            partition by source, id_column, id order by session_count + place_count desc)
        order by session_count + place_count desc, source, id limit 5""",
    "unread": """
        with unread as (
            unpivot (select source, unread_price as price, unread_quantity as quantity
                from int_records where reason is null)
            on price, quantity into name name value form)
        select source, name, mode(form) as form, count(*) as value_count
        from unread group by all order by all""",
    "unmapped": """
        with sources as (
            select source, count(*) as record_count, count_if(reason is null) as event_count,
                count_if(reason is null and coalesce(anonymous_id, user_id, session_id) is not null)
                    as visitor_count
            from int_records where reason is distinct from 'left_out' group by source)
        select source, 'tenant_days' as table_name, 'records are events' as shortage
        from sources where event_count < 0.1 * record_count
        union all
        select source, 'missing_ids', 'events have a visitor'
        from sources where visitor_count < 0.1 * event_count""",
    "stragglers": """
        select source, count(*) as event_count, count(distinct session_id) as session_count,
            any_value(strftime(occurred_until, '%Y-%m-%d %H:%M')) as data_ends_at,
            strftime(max(occurred_at), '%Y-%m-%d %H:%M') as last_at,
            max_by(
                {'session_id': session_id, 'file': file, 'line_number': line_number},
                (occurred_at, event_id)
            ) as last_place
        from events cross join int_data_end
        where session_id is not null
            and (occurred_at > occurred_until or received_at > received_until)
        group by source order by source""",
    "statuses": """
        select status, count(*) as session_count
        from session_features group by all order by session_count desc""",
    "tenants": """
        with spans as (
            select min(point_at)::date as first_on,
                1 + date_diff('day', min(point_at), max(point_at)) // 60 as step
            from session_features),
        cells as (
            select tenant_id, step,
                first_on + (date_diff('day', first_on, point_at) // step * step)::int as day,
                count(*) as session_count, count(label) as train_count,
                count(*) filter (where label) as positive_count
            from session_features cross join spans group by all)
        select tenant_id, sum(session_count) as session_count, sum(train_count) as train_count,
            sum(positive_count) / nullif(sum(train_count), 0) as label_rate,
            list({'day': day, 'until': day + step::int, 'train_count': train_count,
                'label_rate': positive_count / nullif(train_count, 0)} order by day) as cells
        from cells group by all order by session_count desc, tenant_id limit 50""",
    "identities": """
        select count(distinct (tenant_id, person_id)) as person_count, count(*) as id_count,
            (select count(*) from int_identity_links where is_cut) as cut_link_count,
            (select count(distinct (tenant_id, case when account_count > device_count
                then 'a:' || anonymous_id else 'u:' || user_id end))
                from int_identity_links where is_cut) as cut_id_count
        from int_identities""",
    "days": """
        select cast(point_at as date) as day, day + interval 12 hours as noon,
            count(*) as session_count, count(label) as train_count,
            count(*) filter (where label) as positive_count,
            avg(label::int) as label_rate
        from session_features group by all order by day""",
}


def gather(store: Store, landing: Landing, findings: list[Finding]) -> dict:
    """The run's figures for the page: lists of rows by name, and the totals."""
    last = snapshot.find_latest(store)
    earlier_changes = []
    if last and "source_changes" in last.manifest["tables"]:
        earlier_changes = last.frame("source_changes").to_dict("records")
    with connect(store) as connection:
        rows = {
            name: connection.sql(query).df().to_dict("records") for name, query in QUERIES.items()
        }
        rows["layers"] = [
            {
                "table_name": name,
                "row_count": connection.table(name).aggregate("count(*)").fetchone()[0],
            }
            for name in published_tables(store)
        ]
        replayed = _count_replayed(connection, last, landing)
        rows["changes"] = changes.find(connection, store, earlier_changes)
        rows["nonfinite"] = find_nonfinite(connection)
        rows["absent_fields"] = absent_fields.format_absent(absent_fields.find(connection))
        rows["distributions"] = distribution.describe(connection, "session_features")
    totals = _sum_rows(rows) | {"file_count": len(landing.files), "replayed": replayed}
    return rows | {
        "notes": [
            *rows["absent_fields"],
            *_format_ignored_ids(rows["ignored_ids"]),
            *format_crowded_ids(rows["crowded_ids"]),
            *_format_files(landing),
            *format_unread(rows["unread"]),
            *format_nonfinite(rows["nonfinite"]),
            *_format_late(rows["stragglers"], landing),
            *_format_notes(totals, landing),
        ],
        "models": last_models(store),
        "moved": read_json(store.distributions, default=[]),
        "latest": last.id if last else "",
        "totals": totals,
        "landing": landing,
        "findings": findings,
        "documented": [path.stem for path in find_suites()],
    }


def find_nonfinite(connection: duckdb.DuckDBPyConnection) -> list[dict]:
    """The features with infinite or NaN values, each with the number of such sessions."""
    features = connection.table("int_features")
    names = [
        name
        for name, kind in zip(features.columns, features.types, strict=True)
        if kind in ("DOUBLE", "FLOAT")
    ]
    columns = ["count(*)", *(f'count_if(not isfinite("{name}"))' for name in names)]
    _, *counts = features.aggregate(", ".join(columns)).fetchone()
    return [
        {"feature": name, "session_count": count}
        for name, count in zip(names, counts, strict=True)
        if count
    ]


def _sum_rows(rows: dict) -> dict[str, int]:
    """The totals over sources and days, and the counts of ids."""
    totals = {name: int(value) for name, value in rows["identities"][0].items()}
    totals |= _sum_records(rows["sources"])
    for name in ("session_count", "train_count", "positive_count"):
        totals[name] = int(sum(day[name] for day in rows["days"]))
    return totals


def _sum_records(sources: list[dict]) -> dict[str, int]:
    kinds = ("record", "event", "duplicate", "quarantined", "missing", "left_out", "further")
    return {
        f"{kind}_count": int(sum(row[f"{kind}_count"] for row in sources))
        for kind in (*kinds, "held_back")
    }


def _account_for_held(report: dict, published: tuple[snapshot.Snapshot, bool] | None) -> dict:
    """The report with the records by source as they are published, if tenants are held back."""
    if not (published and published[0].held):
        return report
    account = published[0].relation("record_reconciliation")
    rows = account.query("record_reconciliation", QUERIES["sources"]).df().to_dict("records")
    return report | {"sources": rows, "totals": report["totals"] | _sum_records(rows)}


def _count_replayed(
    connection: duckdb.DuckDBPyConnection, last: snapshot.Snapshot | None, landing: Landing
) -> tuple[int, int]:
    """The last snapshot's quarantined records, and how many of them are events now.

    (0, 0) if the code is the same. Records of changed files do not count.
    """
    if last is None or last.manifest.get("code") == code_fingerprint():
        return 0, 0
    return connection.execute(
        "select count(*), count(events.file) "
        f"from {last.scan('quarantined_events')} as quarantined "
        "semi join landed_files on quarantined.file = landed_files.file "
        "left join events on quarantined.file = events.file "
        "and quarantined.line_number = events.line_number "
        "where not list_contains($changed, quarantined.file)",
        {"changed": landing.changed},
    ).fetchone()


def format_summary(
    report: dict,
    published: tuple[snapshot.Snapshot, bool] | None,
    seconds: float,
    store: Store,
) -> str:
    """The tenants held back, records by source, problems, notes and the result, as lines."""
    report = _account_for_held(report, published)
    lines = [
        *(held.format_held(published[0].held) if published else []),
        *_format_sources(report["sources"]),
        *_format_quarantine(report["quarantine"]),
        *report["notes"],
        *_format_findings([each for each in report["findings"] if not (published and each.stops)]),
        *_format_changes(report["changes"]),
        *_format_questions(published),
        _format_result(report, published, seconds),
        f"page: {_page(store)}",
    ]
    return join_lines(lines)


def _format_sources(sources: list[dict]) -> list[str]:
    columns = ("records", "events", "duplicates", "quarantined")
    heading = f"{'source':<12}{'files':>7}" + "".join(f"{name:>12}" for name in columns)
    return [heading] + [
        f"{row['source']:<12}{row['file_count']:>7,}{row['record_count']:>12,.0f}"
        f"{row['event_count']:>12,.0f}{row['duplicate_count']:>12,.0f}"
        f"{row['quarantined_count']:>12,.0f}{_format_staging(row)}"
        for row in sources
    ]


def _format_staging(row: dict) -> str:
    """What waits, what staging leaves out, and what it makes of records beyond one row each."""
    counts = [
        ("held_back_count", "held back"),
        ("left_out_count", "left out"),
        ("further_count", "more rows than records"),
    ]
    parts = [f"{row[name]:,.0f} {words}" for name, words in counts if row[name]]
    return f"  ({', '.join(parts)})" if parts else ""


def _format_ignored_ids(rows: list[dict]) -> list[str]:
    return [
        f"note: {format_count(row['record_count'], 'record')} of {row['source']} with the "
        f"{row['ignored_id']}, which identifies nobody; it counts as null"
        for row in rows
    ]


def format_crowded_ids(rows: list[dict]) -> list[str]:
    """The ids with more sessions or places in one hour than one person has."""
    return [
        f"warning: {row['source']}: {row['id_column']} {row['id']!r} is in "
        f"{format_count(row['session_count'], 'session')}, on {row['place_count']:,} devices and "
        "countries, within one hour: if it identifies nobody, write "
        f"nullif(..., '{quoted(row['id'])}') as {row['id_column']} in "
        f"stg_{row['source']}__events.sql"
        for row in rows
    ]


def _format_quarantine(quarantine: list[dict]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in quarantine:
        setting = f" (vars: {LIMITS[row['reason']]})" if row["reason"] in LIMITS else ""
        reason = f"{row['record_count']:,} {row['reason']}{setting}{_format_first(row)}"
        reasons.setdefault(row["source"], []).append(reason)
    lines = []
    for source, counts in reasons.items():
        more = len(counts) - MOST_REASONS
        rest = f" and {more} more reasons, on the page" if more > 0 else ""
        lines.append(f"quarantined: {source}: {', '.join(counts[:MOST_REASONS])}{rest}")
    return lines


def _format_first(row: dict) -> str:
    """The first place of a reason; a file that cannot be read has no line."""
    number = row["first_line_number"]
    line = f", line {number:.0f}" if number and number > 0 else ""
    return f" (first: data/{row['first_file']}{line})"


def _format_files(landing: Landing) -> list[str]:
    """Each file that cannot be read, with what to do, and counts of what is read in another way."""
    refused = [file for file in landing.unreadable if not file.is_accepted]
    lines = [f"unreadable: {remedies.describe(file)}" for file in refused[:MOST_FILES]]
    if len(refused) > MOST_FILES:
        lines.append(f"unreadable: and {len(refused) - MOST_FILES:,} more: `jollyboat land`")
    if accepted := len(landing.unreadable) - len(refused):
        lines.append(
            f"note: {format_count(accepted, 'accepted file')} cannot be read; "
            "`jollyboat land` lists them"
        )
    if bare := [file.file for file in landing.files if not file.has_header]:
        lines.append(
            f"note: no header in {format_count(len(bare), 'CSV file')}, such as {bare[0]}: "
            "the columns are column_1, column_2, ..."
        )
    return lines


def _format_findings(findings: list[Finding]) -> list[str]:
    """The expectations that failed; those of source_changes are in the changes."""
    return [
        f"{finding.severity}: {finding.table}: FAILED: {finding.expectation} "
        f"({finding.observed}{_format_place(finding)})"
        for finding in findings
        if not finding.passed and finding.table != "source_changes"
    ]


def _format_place(finding: Finding) -> str:
    """The first file among the rows that failed, or the features, if they have one."""
    files = [key["file"] for key in finding.keys if "file" in key]
    features = [key["column_name"] for key in finding.keys if "column_name" in key]
    if features:
        more = f" and {len(features) - MOST_REASONS} more" if len(features) > MOST_REASONS else ""
        return f": {', '.join(features[:MOST_REASONS])}{more}"
    return f", such as {files[0]}" if files else ""


def _format_changes(rows: list[dict]) -> list[str]:
    news = [row for row in rows if row["is_news"]]
    lines = [
        f"changed: {row['source']}: {row['kind']} {row['field']} since "
        f"{row['changed_on']:%Y-%m-%d}: {row['was_before']} -> {row['was_after']}; {row['hint']}"
        for row in news[:MOST_CHANGES]
    ]
    if len(news) > MOST_CHANGES:
        lines.append(f"changed: and {len(news) - MOST_CHANGES} more, on the page")
    return lines


def format_unread(unread: list[dict]) -> list[str]:
    """The texts that are no certain number, such as 1,299 (1299 or 1.299)."""
    return [
        f"note: {row['source']}: {format_count(row['value_count'], 'text')} without a certain "
        f"{row['name']}, null now, most like {row['form']} (9: a digit, x: a letter); write the "
        f"number in stg_{row['source']}__events.sql, such as replace({row['name']}, ',', '')"
        for row in unread
    ]


def format_nonfinite(nonfinite: list[dict]) -> list[str]:
    """The features that divide by zero or the like."""
    return [
        f"note: the feature {row['feature']} is infinite or NaN in "
        f"{format_count(row['session_count'], 'session')}, and null there; if it is a ratio, write "
        "x / nullif(y, 0) in features_at_point"
        for row in nonfinite
    ]


def _format_late(stragglers: list[dict], landing: Landing) -> list[str]:
    """Events after the end of the data, and folders of days that have not come yet."""
    lines = []
    for row in stragglers:
        place = row["last_place"]
        lines.append(
            f"warning: {row['source']}: the data ends at {row['data_ends_at']}, and "
            f"{format_count(row['event_count'], 'event')} of "
            f"{format_count(row['session_count'], 'session')} came long after it, up to "
            f"{row['last_at']} (data/{place['file']}, line {place['line_number']}, "
            f"session {place['session_id']!r}): check the clock that set their times. Newest days "
            "are counted without them"
        )
    tomorrow = (date.today() + timedelta(days=1)).isoformat()
    folders = {(file.source, file.arrived_on) for file in landing.files}
    for source, day in sorted((source, day) for source, day in folders if day and day > tomorrow):
        lines.append(
            f"warning: data/raw/{source}/dt={day} is a day in the future: rename the folder to the "
            "day on which its files arrived"
        )
    return lines


def _format_notes(totals: dict, landing: Landing) -> list[str]:
    """What the table of sources does not show."""
    lines = [
        f"note: data/raw/{name} is in no run: add it to vars: sources in dbt/dbt_project.yml"
        for name in landing.unnamed_sources
    ]
    read, back = totals["replayed"]
    if read:
        lines.append(
            f"note: {format_count(read, 'quarantined record')} read again, and {back:,} came back "
            "as events"
        )
    if totals["cut_link_count"]:
        lines.append(
            f"note: {totals['cut_link_count']:,} links of {totals['cut_id_count']:,} shared "
            "devices and accounts join no person "
            "(vars: accounts_of_a_device, devices_of_an_account)"
        )
    if landing.changed or landing.removed:
        lines.append(
            f"note: {format_count(len(landing.changed), 'changed file')}, "
            f"{len(landing.removed):,} removed: the tables hold the present files"
        )
    return lines


def _format_questions(published: tuple[snapshot.Snapshot, bool] | None) -> list[str]:
    """A line for each question but the first: its points and its outcomes."""
    others = published[0].manifest.get("questions", {}) if published else {}
    return [
        f"{name}: {format_count(sum(each['statuses'].values()), 'point')}, "
        f"{each['statuses'].get('train', 0):,} for training, "
        f"{each['positive_count']:,} of them with {outcome}"
        for name, each in others.items()
        for outcome in ["a next item" if "item" in each else "the outcome"]
    ]


def _format_result(
    report: dict, published: tuple[snapshot.Snapshot, bool] | None, seconds: float
) -> str:
    totals, landing = report["totals"], report["landing"]
    if not published:
        result = "nothing published"
    elif published[1]:
        result = f"snapshot {published[0].id} published"
    elif published[0].id == report["latest"]:
        result = f"snapshot {published[0].id} is still the latest, nothing is new"
    else:
        result = f"snapshot {published[0].id} is the latest again, it has the same rows"
    return (
        f"data: {result}; {format_count(len(landing.new), 'new file')} of "
        f"{totals['file_count']:,}; {format_count(totals['event_count'], 'event')}, "
        f"{format_count(totals['session_count'], 'session')}, "
        f"{totals['train_count']:,} for training; {seconds:.1f} s"
    )


def write_page(
    store: Store, report: dict, published: tuple[snapshot.Snapshot, bool] | None, title: str
) -> str:
    """Write the run's page below `data/reports` and return it.

    The page of a new snapshot is also kept under the snapshot's id, for the pages of its runs.
    """
    report = _account_for_held(report, published)
    waiting = [
        {
            "tenant_id": tenant,
            **one,
            "rows": held.describe(one),
            "hint": held.format_remedy(tenant, one),
        }
        for tenant, one in (published[0].held.items() if published else ())
    ]
    context = {"title": title, "published": published, "held": waiting, **report}
    if published and published[1]:
        kept = store.snapshot_pages / f"{published[0].id}.html"
        page.write(store, kept, "data.html", **context)
    return page.write(store, _page(store), "data.html", **context)


def refusal(critical: list[Finding], store: Store, report: Mapping | None = None) -> str:
    """Why nothing was published: each critical finding with keys of rows that failed it.

    With the report, the fields that a staging model reads and no record has come first. Records
    that are quarantined are a cause of what other tables lack, so they come before these.
    """
    critical = sorted(critical, key=lambda finding: finding.table != "record_reconciliation")
    stays = "; the snapshot before stays" if snapshot.find_latest(store) else ""
    lines = [f"Nothing was published{stays}. FAILED (critical):"]
    if all(finding.tenants for finding in critical):
        lines.insert(0, "Every tenant fails, so no tenant can be held back.")
    for finding in critical:
        lines.append(f"  {finding.table}: {finding.expectation} ({finding.observed})")
        for key in finding.keys[:5]:
            lines.append(f"    {', '.join(f'{name}={value}' for name, value in key.items())}")
    lines += _format_acceptance(critical, report["unmapped"] if report else [])
    library = {path.stem for path in find_suites() if path.is_relative_to(LIBRARY)}
    tables = dict.fromkeys(finding.table for finding in critical)
    if of_library := ", ".join(table for table in tables if table in library):
        lines.append(
            f"The suite of {of_library} is the library's: it holds the library's own tables "
            "together. A suite of the same name in expectations/ replaces it."
        )
    is_own = tables.keys() - library
    remedy = (
        ", its staging model or the suite in expectations/" if is_own else " or its staging model"
    )
    lines.append(
        f"Fix the source{remedy}, then run `make data` again "
        f"(page: {_page(store)}; keys of the rows: {store.failed_rows})."
    )
    absent = report["absent_fields"] if report else []
    return join_lines([*(line.removeprefix("note: ") for line in absent), *lines])


def _format_acceptance(critical: list[Finding], unmapped: list[dict]) -> list[str]:
    """The staging models that map nearly no record, else how to accept the days that failed."""
    failed = {(finding.table, key.get("source")) for finding in critical for key in finding.keys}
    lines = [
        f"Less than 10 % of {row['source']}'s {row['shortage']}: correct its staging model, "
        f"dbt/models/staging/stg_{row['source']}__events.sql."
        for row in unmapped
        if (row["table_name"], row["source"]) in failed
    ]
    tables = {finding.table for finding in critical}
    if lines and "missing_ids" in tables:
        lines.append("Name a source without visitors under vars: back_end_sources instead.")
    return lines or [ACCEPTANCE[table] for table in ACCEPTANCE if table in tables][:1]


def _page(store: Store) -> Path:
    return store.reports / "data.html"
