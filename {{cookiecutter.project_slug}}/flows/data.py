"""Raw logs -> events, sessions, features -> an audited snapshot: `python flows/data.py run`."""

from jollyboat.flows import ProjectFlow, report_errors

from metaflow import card, step


class DataFlow(ProjectFlow):
    """Build and audit the tables, then publish a snapshot of every tenant whose data pass."""

    scope = "all"  # of a bucket, it needs the raw logs too

    @step
    @report_errors
    def start(self):
        """Land new files, build the tables, audit them and publish a snapshot.

        A tenant with a critical finding keeps its last good rows.
        """
        from jollyboat.audit import audit
        from jollyboat.warehouse import warehouse

        store = self.store()
        with warehouse.locked(store, run_process=self.process()) as lock:
            landing = self._land(store)
            with self.stage("build tables") as stage:
                build = warehouse.start_dbt(store, lock, landing)
                audit.load_gx()
                warehouse.finish_dbt(store, build)
                stage.rows = warehouse.count_rows(store, "events")
            self._publish(store, landing)
        self.next(self.end)

    @card(type="html")
    @step
    @report_errors
    def end(self):
        """Write the page, and end with what is critical."""
        from jollyboat.audit import data_report
        from jollyboat.snapshots import snapshot
        from jollyboat.store import UserError

        store, report, published = self.store(), self.report, None
        if self.snapshot_id:
            published = snapshot.open(self.snapshot_id, store), self.is_new
        self.html = data_report.write_page(store, report, published, self.title("Data"))
        seconds = self.seconds_since(self.began_at)
        print(data_report.format_summary(report, published, seconds, store))
        if self.critical:
            raise UserError(data_report.refusal(self.critical, store, report))

    def _land(self, store):
        """Check the project, then bring the catalog up to date; returns what landed."""
        from jollyboat.audit import columns
        from jollyboat.warehouse import questions, warehouse

        columns.check_columns()
        for sentence in questions.check_project(self.settings, store):
            print(f"warning: {sentence}")
        self.began_at = self.now()
        with self.stage("land new files") as stage:
            landing = warehouse.land(store)
            stage.rows = landing.new_line_count
        return landing

    def _publish(self, store, landing):
        """Audit the built tables, and publish them unless a critical finding stops everybody."""
        from jollyboat.audit import audit, data_report, held
        from jollyboat.snapshots import snapshot
        from jollyboat.warehouse import warehouse

        with self.stage("audit tables"):
            findings = audit.audit(store, snapshot.find_latest(store))
        self.report = data_report.gather(store, landing, findings)
        reasons, self.critical = held.find_held(store, findings)
        self.snapshot_id, self.is_new = "", False
        if not self.critical:
            sql = warehouse.feature_sql(store)
            warnings = [
                f"{each.table}: {each.expectation}"
                for each in findings
                if not each.passed and not each.stops
            ]
            facts, notes = {"code": warehouse.code_fingerprint()}, {"warnings": warnings}
            with self.stage("publish snapshot") as stage:
                published, self.is_new = snapshot.publish(store, facts, sql, notes, reasons)
                self.snapshot_id = published.id
                stage.rows = published.manifest["tables"]["session_features"]["rows"]


if __name__ == "__main__":
    DataFlow()
