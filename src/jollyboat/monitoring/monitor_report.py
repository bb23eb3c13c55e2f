"""The monitor's report: a file, a page, and lines for the terminal."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jollyboat.monitoring.incidents import incidents, open_groups
from jollyboat.pages import page
from jollyboat.pages.terminal import format_count, join_lines
from jollyboat.store import Store, words_of, write_json

__all__ = ["format_summary", "incidents", "write_page", "write_report"]  # older flows read it
MOST_LINES = 20


def write_report(
    store: Store,
    about: Mapping[str, Any],
    checks: Sequence[Mapping],
    decision: Mapping,
    alerts: Mapping,
) -> dict:
    """Write data/monitor/latest.json and return it; its key `tenants` is as in `fleet`."""
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
        "checks": [dict(check) for check in checks],
        "incidents": open_groups(checks),
        "retraining": dict(decision),
        "alerts": dict(alerts),
    }
    write_json(store.monitor / "latest.json", report)
    return report


def write_page(store: Store, report: Mapping[str, Any], title: str) -> str:
    """Write data/monitor/report.html and return it."""
    return page.write(
        store, store.monitor / "report.html", "monitor.html", title=title, report=report
    )


def format_summary(store: Store, report: Mapping[str, Any], seconds: float) -> str:
    """Each incident, the decision, the counts, and the path of the page."""
    checks, alerts, open_ones = report["checks"], report["alerts"], report["incidents"]
    lines = [f"ALARM  {one['title']:<27} {one['sentence']}" for one in open_ones[:MOST_LINES]]
    if len(open_ones) > MOST_LINES:
        lines.append(f"{format_count(len(open_ones) - MOST_LINES, 'more incident')} on the page.")
    lines += [f"next: {text}" for text in dict.fromkeys(one["next"] for one in open_ones) if text]
    if alerts["failed"]:
        lines.append(alerts["failed"])
    unjudged = report.get("unjudged", {})
    lines += [f"not judged: {tenant}: {text}" for tenant, text in [*unjudged.items()][:MOST_LINES]]
    unknown = sum(check["state"] == "cannot say yet" for check in checks)
    return join_lines(
        [
            *lines,
            "retraining: {status}. {reason}".format(**report["retraining"]),
            f"monitor: {format_count(len(checks), 'check')} of "
            f"{format_count(report['session_count'], words_of(store).row)} since training, "
            f"{format_count(len(open_ones), 'incident')} ({len(alerts['opened'])} new, "
            f"{len(alerts['ended'])} over), {unknown} cannot say yet; {seconds:.1f} s",
            f"page: {store.monitor / 'report.html'}",
        ]
    )
