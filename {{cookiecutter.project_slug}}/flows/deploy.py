"""A run's best candidate -> champion: `python flows/deploy.py run [--candidate RUN_ID]`."""

from jollyboat.flows import QuestionFlow, report_errors

from metaflow import Parameter, card, current, step


class DeployFlow(QuestionFlow):
    """Assemble a bundle, check it on a server, and promote it if it passes the gate."""

    candidate = Parameter(
        "candidate", default="", help="the training run to deploy; the latest by default"
    )
    force = Parameter(
        "force", default="", help="the reason to promote a candidate that the gate refuses"
    )

    @step
    @report_errors
    def start(self):
        """Begin a deployment, unless an experiment runs."""
        from jollyboat.serving import deployment

        self.began_at, self.refused = self.now(), ""
        if refusal := deployment.refusal(self.store(), self.force):
            self.refuse(refusal)
        else:
            self._check_candidate()
        self.next(self.end)

    @card(type="html")
    @step
    @report_errors
    def end(self):
        """Promote the bundle, or stop with the checks that failed."""
        if not self.refused:
            self._promote()

    def _check_candidate(self):
        """Assemble the bundle and check it, unless it is the champion already."""
        from jollyboat.champions import champion
        from jollyboat.gate import gate
        from jollyboat.serving import deployment
        from jollyboat.training import run

        chosen_run = run.open(self.candidate, self.store())
        with self.stage("assemble bundle"):
            bundle = deployment.assemble_bundle(chosen_run, self.title("Model card"))
        self.run_id, self.version = chosen_run.id, bundle.version
        self.champion_before = before = champion.current(self.store())
        self.decision = self.smoke_figures = None
        if before != (bundle.owner, bundle.version):
            with self.stage("run deployment checks"):
                facts, self.smoke_figures = deployment.gather_facts(chosen_run, bundle, before)
            self.decision = gate.decide(facts, self.settings.gate.model_dump()).to_dict()

    def _promote(self):
        """Promote the bundle, unless a check failed."""
        from jollyboat.champions import champion
        from jollyboat.gate import gate_report
        from jollyboat.serving import own_champions
        from jollyboat.training import run as runs

        run = runs.Run(self.store(), self.run_id)
        report = gate_report.Report(
            run, self.version, self.champion_before, self.decision, self.smoke_figures, self.force
        )
        self.html = gate_report.write_page(report, self.title("Deployment"))
        runs.write_page(run, self.title("Training run"))
        if report.decision:
            print(gate_report.format_checks(report))
        if report.failed and not report.is_forced:
            self.refuse(gate_report.refusal(report))
            return
        change = champion.promote(
            self.store(),
            champion.SHARED,
            self.version,
            run=run.id,
            by=current.username,
            why=gate_report.why(report),
            over=self.champion_before and self.champion_before[1],
            gate=report.page.name,
            forced=self.force if report.is_forced else None,
        )
        keep = self.settings.deploy.keep
        champion.prune(self.store(), champion.SHARED, keep)
        decisions = own_champions.deploy_tenants(run, by=current.username, keep=keep)
        print(own_champions.format_summary(decisions))
        seconds = self.seconds_since(self.began_at)
        print(gate_report.format_summary(report, change.sentence, seconds))


if __name__ == "__main__":
    DeployFlow()
