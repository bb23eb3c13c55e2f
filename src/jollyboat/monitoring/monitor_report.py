"""What the monitor found, as lines for the terminal, as a page, and as a file that stays."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jollyboat.pages import page
from jollyboat.store import Store, write_json


def incidents(checks: Sequence[Mapping]) -> dict[str, str]:
    """Each alarm's key and sentence; one of a tenant is not told beside the same of all tenants."""
    alarms = {check["key"]: check for check in checks if check["state"] == "alarm"}
    twins = {key: f"{check['name']}/all/{check['subject']}" for key, check in alarms.items()}
    return {
        key: check["sentence"]
        for key, check in alarms.items()
        if twins[key] == key or twins[key] not in alarms
    }


def keep(
    store: Store,
    about: Mapping[str, Any],
    checks: Sequence[Mapping],
    decision: Mapping,
    alerts: Mapping,
) -> dict:
    """The whole report, which is then data/monitor/latest.json."""
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
    return page.write(store.monitor / "report.html", "monitor.html", title=title, report=report)


def format_summary(store: Store, report: Mapping[str, Any], seconds: float) -> str:
    """Each alarm, the decision, and where the page is."""
    alarms = [check for check in report["checks"] if check["state"] == "alarm"]
    lines = [
        f"ALARM  {check['name']:<16} {check['tenant']:<10} {check['sentence']}" for check in alarms
    ]
    lines += [report["alerts"]["failed"]] if report["alerts"]["failed"] else []
    what = "train anew" if report["retraining"]["retrain"] else "no training"
    lines.append(f"retraining: {what}. {report['retraining']['reason']}")
    opened, ended = (len(report["alerts"][name]) for name in ("opened", "ended"))
    unknown = sum(check["state"] == "cannot say yet" for check in report["checks"])
    lines.append(
        f"monitor: {len(report['checks'])} checks of {report['session_count']:,} sessions since training, "
        f"{len(alarms)} alarms ({opened} new, {ended} over), {unknown} cannot say yet; {seconds:.1f} s"
    )
    return "\n".join([*lines, f"page: {store.monitor / 'report.html'}"])
