"""Live data against what the champion learned from: `python flows/monitor.py run [--auto 1]`."""

from jollyboat.flows import ProjectFlow, report_errors, run_flow

from metaflow import Parameter, card, step


class MonitorFlow(ProjectFlow):
    """Judge quality, drift, volumes and latency, tell of incidents once, and decide whether to train anew."""

    auto = Parameter(
        "auto",
        default=False,
        type=bool,
        help="train and deploy through the gate when the decision says so",
    )
    as_of = Parameter(
        "as-of",
        default="",
        help="the time that freshness is judged at (ISO, in UTC unless it says more); now by default",
    )

    @step
    @report_errors
    def start(self):
        """Gather what is known and judge it."""
        from dataclasses import asdict
        from datetime import UTC, datetime

        from jollyboat.monitoring import inputs, monitor
        from jollyboat.store.errors import UserError

        self.began_at = self.now()
        try:
            as_of = datetime.fromisoformat(self.as_of) if self.as_of else datetime.now(UTC)
        except ValueError:
            raise UserError(
                f"AS_OF is a time such as 2026-02-01T18:00:00+02:00, not {self.as_of!r}."
            ) from None
        with self.stage("gather live figures") as stage:
            facts, self.about = inputs.gather(self.store(), as_of)
            stage.rows = self.about["session_count"]
        limits = {"latency_ms": self.settings.gate.latency_ms} | self.settings.monitor.model_dump()
        checks, self.decision = monitor.judge(facts, limits)
        self.checks = [asdict(check) | {"key": check.key} for check in checks]
        self.next(self.end)

    @card(type="html")
    @step
    @report_errors
    def end(self):
        """Tell of incidents, leave the page, and train where it was asked for."""
        import os

        from jollyboat.monitoring import alerts, monitor_report

        store, hook = self.store(), self.settings.monitor
        webhook = os.environ.get("ALERT_WEBHOOK") or hook.webhook
        alarms = monitor_report.incidents(self.checks)
        page = str(store.monitor / "report.html")
        told = alerts.tell(store, alarms, page, alerts.hooks_of(hook.command, webhook))
        report = monitor_report.keep(store, self.about, self.checks, self.decision, told)
        self.html = monitor_report.write_page(store, report, self.title("Monitor"))
        print(monitor_report.format_summary(store, report, self.seconds_since(self.began_at)))
        if self.auto and store.experiment.exists():
            print(
                "Nothing is trained while a challenger is on trial: `jollyboat experiment promote` or `stop` ends that."
            )
        elif self.auto and self.decision["retrain"]:
            is_new = run_flow("train") and run_flow("deploy")
            print("A new champion answers." if is_new else "The champion stays; why stands above.")


if __name__ == "__main__":
    MonitorFlow()
