"""The index of Data Docs: what each table's expectations gave, now and in the audits before."""

from collections.abc import Collection
from datetime import UTC, datetime
from itertools import groupby

from jollyboat.audit.finding import Finding
from jollyboat.pages import page
from jollyboat.store import Store, read_json, write_json

AUDITS_KEPT = 100


def write_index(store: Store, findings: Collection[Finding], documented: Collection[str]) -> None:
    """Write data/reports/data_docs/index.html, and add this audit to data/reports/audits.json.

    `documented` are the tables that have a page of Great Expectations beside it.
    """
    ordered = sorted(findings, key=lambda each: each.table)
    tables = [
        {"table": table, "has_page": table in documented, **_count(list(group))}
        for table, group in groupby(ordered, key=lambda each: each.table)
    ]
    failed = sorted({each.table for each in findings if not each.passed})
    audits = read_json(store.audits, default=[])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    audits = [*audits, {"at": now, "failed_tables": failed, **_count(findings)}][-AUDITS_KEPT:]
    write_json(store.audits, audits)
    path = store.data_docs / "index.html"
    newest_first = audits[::-1]
    page.write(store, path, "data_docs.html", title="Data Docs", tables=tables, audits=newest_first)


def _count(findings: Collection[Finding]) -> dict[str, int]:
    return {
        "expectation_count": len(findings),
        "passed_count": sum(each.passed for each in findings),
        "stopping_count": sum(each.stops for each in findings),
    }
