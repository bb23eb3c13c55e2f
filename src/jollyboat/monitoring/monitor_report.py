"""The monitor's report: a file, a page, and lines for the terminal."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jollyboat.pages import page
from jollyboat.pages.terminal import format_count, join_lines
from jollyboat.store import Store, words_of, write_json


def incidents(checks: Sequence[Mapping]) -> dict[str, str]:
    """Each alarm's key and sentence, without a tenant's alarm that all tenants share."""
    alarms = {check["key"]: check for check in checks if check["state"] == "alarm"}
    return {
        key: check["sentence"]
        for key, check in alarms.items()
        if check["tenant"] == "all" or f"{check['name']}/all/{check['subject']}" not in alarms
    }


def write_report(
    store: Store,
    about: Mapping[str, Any],
    checks: Sequence[Mapping],
    decision: Mapping,
    alerts: Mapping,
) -> dict:
    """Write data/monitor/latest.json and return it."""
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
        "checks": [dict(check) for check in checks],
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
    """Each alarm, the decision, the counts, and the path of the page."""
    checks, alerts = report["checks"], report["alerts"]
    alarms = [check for check in checks if check["state"] == "alarm"]
    lines = [
        f"ALARM  {check['name']:<16} {check['tenant']:<10} {check['sentence']}" for check in alarms
    ]
    if alerts["failed"]:
        lines.append(alerts["failed"])
    unknown = sum(check["state"] == "cannot say yet" for check in checks)
    return join_lines(
        [
            *lines,
            "retraining: {status}. {reason}".format(**report["retraining"]),
            f"monitor: {format_count(len(checks), 'check')} of "
            f"{format_count(report['session_count'], words_of(store).row)} since training, "
            f"{format_count(len(alarms), 'alarm')} ({len(alerts['opened'])} new, "
            f"{len(alerts['ended'])} over), {unknown} cannot say yet; {seconds:.1f} s",
            f"page: {store.monitor / 'report.html'}",
        ]
    )
