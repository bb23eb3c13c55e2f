"""The gate's decision on a bundle: lines for the terminal, and a page beside the bundle."""

from dataclasses import dataclass
from pathlib import Path

from jollyboat.bundles.bundle import SHARED
from jollyboat.pages import page
from jollyboat.pages.terminal import join_lines
from jollyboat.store import write_json
from jollyboat.training.run import Run, headline, interval


@dataclass(frozen=True)
class Report:
    """A deployment; `decision` is None if the version was the champion already."""

    run: Run
    version: str
    champion_before: tuple[str, str] | None
    decision: dict | None
    smoke: dict | None
    force: str

    @property
    def checks(self) -> list[dict]:
        """The checks of the decision, if there is one."""
        return self.decision["checks"] if self.decision else []

    @property
    def failed(self) -> list[dict]:
        """The checks that shut the gate."""
        return [check for check in self.checks if not check["passed"]]

    @property
    def is_forced(self) -> bool:
        """Whether a shut gate is passed; a bundle that failed the smoke test cannot be forced."""
        names = [check["name"] for check in self.failed]
        return bool(self.force and names) and "smoke" not in names

    @property
    def page(self) -> Path:
        return self.run.store.gate(SHARED, self.version).with_suffix(".html")


def write_page(report: Report, title: str) -> str:
    """Write page and decision beside the bundle, unless there is none; returns the page."""
    if report.decision is None:
        written = report.page.read_text(encoding="utf-8") if report.page.exists() else ""
        return page.without_links(written)
    html = page.write(
        report.run.store,
        report.page,
        "gate.html",
        title=title,
        report=report,
        metrics=report.run.metrics,
    )
    content = {
        "decision": report.decision,
        "smoke": report.smoke,
        "forced": report.is_forced and report.force,
    }
    write_json(report.page.with_suffix(".json"), content)
    return html


def format_summary(report: Report, change: str, seconds: float) -> str:
    """What happened to the champion, and where the model card is."""
    card = report.run.store.bundle(SHARED, report.version) / "card.html"
    forced = f"FORCED past {_names(report)}: {report.force}. " if report.is_forced else ""
    return f"deploy: {forced}{change} {why(report)}; {seconds:.1f} s\npage: {card}"


def why(report: Report) -> str:
    """The candidate's lead over the baseline, in a clause."""
    chosen = report.run.chosen
    figures = report.run.metrics["candidates"][chosen]
    baseline = "popularity" if report.run.is_ranking else "the baseline"
    lead, (measure, _) = figures.get("against_baseline"), headline(figures["holdout"])
    if not lead or lead["low"] is None:
        return f"{chosen}, not compared with {baseline}"
    return f"{chosen}: {measure} {interval(lead, signed=True)} over {baseline}'s"


def refusal(report: Report) -> str:
    """Which checks failed, that the champion stays, and what to do about each."""
    names, champion = _names(report), report.champion_before
    stays = f"champion {champion[1]} stays" if champion else "there is still no champion"
    lines = [f"deploy: refused by {names}; {stays}."]
    for check in report.failed:  # that of the smoke test has the server's last lines
        is_smoke = check["name"] == "smoke"
        lines += check["sentence"].split("\n") if is_smoke else [check["sentence"]]
    if "smoke" not in names:
        lines.append(
            'To deploy it anyway, run `make deploy FORCE="the reason"`; the reason is shown while '
            "it is the champion."
        )
    elif report.force:
        lines.append("A bundle that fails the smoke test cannot be forced: servers refuse it.")
    return join_lines([*lines, f"page: {report.page}"])


def format_checks(report: Report) -> str:
    """A line for each check; empty without a decision."""
    return join_lines(
        f"{_verdict(check):<9}{check['name']:<28}{check['sentence']}" for check in report.checks
    )


def _verdict(check: dict) -> str:
    if not check["passed"]:
        return "FAIL"
    if not check["applies"]:
        return "n/a"
    return "warning" if check["warns"] else "pass"


def _names(report: Report) -> str:
    return ", ".join(check["name"] for check in report.failed)
