"""Raw logs -> events, sessions, features -> an audited snapshot: `python flows/data.py run`."""

from jollyboat.flows import ProjectFlow, report_errors

from metaflow import card, step


class DataFlow(ProjectFlow):
    """Build and audit the tables, then publish a snapshot unless a finding is critical."""

    @step
    @report_errors
    def start(self):
        """Land new files, build the tables and audit them."""
        from jollyboat.audit import audit, columns
        from jollyboat.snapshots import snapshot
        from jollyboat.warehouse import questions, warehouse

        columns.check_columns()
        for sentence in questions.check_project(self.settings, self.store()):
            print(f"warning: {sentence}")
        self.began_at = self.now()
        store = self.store()
        with warehouse.locked(store, run_process=self.process()) as lock:
            with self.stage("land new files") as stage:
                self.landing = warehouse.land(store)
                stage.rows = self.landing.new_line_count
            with self.stage("build tables") as stage:
                build = warehouse.start_dbt(store, lock, self.landing)
                last = snapshot.find_latest(store)
                audit.load_gx()
                self.build_id = warehouse.finish_dbt(store, build)
                stage.rows = warehouse.count_rows(store, "events")
            with self.stage("audit tables"):
                self.findings = audit.audit(store, last)
        self.next(self.end)

    @card(type="html")
    @step
    @report_errors
    def end(self):
        """Publish the snapshot, unless a finding is critical."""
        from jollyboat.audit import data_report
        from jollyboat.snapshots import snapshot
        from jollyboat.store import UserError
        from jollyboat.warehouse import warehouse

        store = self.store()
        with warehouse.locked(store, self.build_id, self.process()):
            report = data_report.gather(store, self.landing, self.findings)
            critical = [finding for finding in self.findings if finding.stops]
            published = None
            if not critical:
                sql = warehouse.feature_sql(store)
                warnings = [
                    f"{each.table}: {each.expectation}" for each in self.findings if not each.passed
                ]
                facts, notes = {"code": warehouse.code_fingerprint()}, {"warnings": warnings}
                with self.stage("publish snapshot") as stage:
                    published = snapshot.publish(store, facts, sql, notes)
                    stage.rows = published[0].manifest["tables"]["session_features"]["rows"]
        self.html = data_report.write_page(store, report, published, self.title("Data"))
        seconds = self.seconds_since(self.began_at)
        print(data_report.format_summary(report, published, seconds, store))
        if critical:
            raise UserError(data_report.refusal(critical, store))


if __name__ == "__main__":
    DataFlow()
