"""What the gate said of a bundle, as lines for the terminal and as a page beside the bundle."""

from dataclasses import dataclass
from pathlib import Path

from jollyboat.bundles.bundle import SHARED
from jollyboat.pages import page
from jollyboat.store import write_json
from jollyboat.training.run import Run, interval


@dataclass(frozen=True)
class Report:
    """A deployment: of which run, which version, over which champion, and what the gate decided (None: not asked)."""

    run: Run
    version: str
    champion_before: tuple[str, str] | None
    decision: dict | None
    smoke: dict | None
    force: str

    @property
    def failed(self) -> list[dict]:
        """The checks that shut the gate."""
        return [
            check for check in (self.decision or {"checks": []})["checks"] if not check["passed"]
        ]

    @property
    def is_forced(self) -> bool:
        """Whether a reason was given to pass a gate that is shut; a bundle that does not answer cannot be forced."""
        return bool(self.force and self.failed) and "smoke" not in [
            check["name"] for check in self.failed
        ]

    @property
    def page(self) -> Path:
        return self.run.store.gate(SHARED, self.version).with_suffix(".html")


def write_page(report: Report, title: str) -> str:
    """Write the page and the decision beside the bundle, and return the page; what was decided before stays."""
    if report.decision is None:
        return report.page.read_text(encoding="utf-8") if report.page.exists() else ""
    html = page.write(
        report.page, "gate.html", title=title, report=report, metrics=report.run.metrics
    )
    said = {
        "decision": report.decision,
        "smoke": report.smoke,
        "forced": report.is_forced and report.force,
    }
    write_json(report.page.with_suffix(".json"), said)
    return html


def format_summary(report: Report, change: str, seconds: float) -> str:
    """What became of the champion."""
    card = report.run.store.bundle(SHARED, report.version) / "card.html"
    forced = f"FORCED past {_failed(report)}: {report.force}. " if report.is_forced else ""
    return f"deploy: {forced}{change} {why(report)}; {seconds:.1f} s\npage: {card}"


def why(report: Report) -> str:
    """How much better than the baseline the candidate is, in a clause."""
    lead = report.run.metrics["candidates"][report.run.chosen].get("against_baseline")
    if not lead or lead["low"] is None:
        return f"{report.run.chosen}, not compared with the baseline"
    return f"{report.run.chosen}: average precision {interval(lead, signed=True)} against the baseline's"


def refusal(report: Report) -> str:
    """Which checks failed, that the champion stays, and what to do about each."""
    stays = (
        f"champion {report.champion_before[1]} stays"
        if report.champion_before
        else "there is still no champion"
    )
    sentences = [check["sentence"] for check in report.failed]
    if "smoke" not in _failed(report):
        sentences.append(
            'If it is to serve all the same: `make deploy FORCE="why"`, which is told as long as it serves.'
        )
    elif report.force:
        sentences.append(
            "A bundle that does not answer its sample cannot be forced: servers would refuse it, too."
        )
    return "\n".join(
        [f"deploy: refused by {_failed(report)}; {stays}.", *sentences, f"page: {report.page}"]
    )


def _failed(report: Report) -> str:
    return ", ".join(check["name"] for check in report.failed)


def format_checks(report: Report) -> str:
    """Each check in a line; none where the gate was not asked."""
    checks = (report.decision or {"checks": []})["checks"]
    verdicts = {True: "pass", False: "FAIL"}
    return "\n".join(
        f"{verdicts[check['passed']]}  {check['name']:<28}{check['sentence']}" for check in checks
    )
