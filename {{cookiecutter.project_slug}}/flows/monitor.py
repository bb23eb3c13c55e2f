"""Compare live data with the training data: `python flows/monitor.py run [--auto 1]`."""

from jollyboat.flows import QuestionFlow, report_errors, run_flow

from metaflow import Parameter, card, step


class MonitorFlow(QuestionFlow):
    """Check quality, drift, volumes and latency, send alerts, decide whether to train again."""

    auto = Parameter(
        "auto",
        default=False,
        type=bool,
        help="train and deploy through the gate if the decision is to retrain",
    )
    as_of = Parameter(
        "as-of",
        default="",
        help="the time for freshness (ISO; UTC by default); now by default",
    )

    @step
    @report_errors
    def start(self):
        """Gather the figures and check them."""
        from dataclasses import asdict
        from datetime import UTC, datetime

        from jollyboat.monitoring.watch import watch
        from jollyboat.store import UserError

        self.began_at = self.now()
        try:
            as_of = datetime.fromisoformat(self.as_of) if self.as_of else datetime.now(UTC)
        except ValueError:
            raise UserError(
                f"AS_OF is a time such as 2026-02-01T18:00:00+02:00, not {self.as_of!r}."
            ) from None
        limits = {"latency_ms": self.settings.gate.latency_ms} | self.settings.monitor.model_dump()
        with self.stage("gather live figures") as stage:
            checks, self.decision, self.about = watch(self.store(), as_of, limits)
            stage.rows = self.about["session_count"]
        self.checks = [asdict(check) | {"key": check.key} for check in checks]
        self.next(self.end)

    @card(type="html")
    @step
    @report_errors
    def end(self):
        """Send alerts, write the page, and retrain if --auto says so."""
        import os

        from jollyboat.monitoring import alerts, incidents, monitor_report

        store, hook = self.store(), self.settings.monitor
        webhook = os.environ.get("ALERT_WEBHOOK") or hook.webhook
        alarms, days = incidents.incidents(self.checks), incidents.first_days(self.checks)
        page, hooks = str(store.monitor / "report.html"), alerts.hooks_of(hook.command, webhook)
        sent = alerts.send_alerts(store, alarms, page, hooks, days=days)
        report = monitor_report.write_report(store, self.about, self.checks, self.decision, sent)
        self.html = monitor_report.write_page(store, report, self.title("Monitor"))
        print(monitor_report.format_summary(store, report, self.seconds_since(self.began_at)))
        if self.auto and store.experiment.exists():
            print(
                "Nothing is trained while an experiment runs. "
                "End it with `jollyboat experiment promote` or `jollyboat experiment stop`."
            )
        elif self.auto and self.decision["retrain"]:
            is_new = all(
                run_flow(name, "--question", self.question) for name in ("train", "deploy")
            )
            print(
                "There is a new champion." if is_new else "The champion stays; the reason is above."
            )


if __name__ == "__main__":
    MonitorFlow()
