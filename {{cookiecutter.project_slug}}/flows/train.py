"""A snapshot -> compared candidates: `python flows/train.py run [--snapshot ID]`."""

from jollyboat.flows import QuestionFlow, report_errors

from metaflow import Parameter, card, step

LEARNED_WITH = ("split", "train", "decision", "evaluate", "tenants")
FEW_ROWS = 50_000  # one task fits all candidates before a second one has imported its libraries


class TrainFlow(QuestionFlow):
    """Fit every candidate on a snapshot and compare them; a finished run is not repeated."""

    snapshot = Parameter(
        "snapshot", default="", help="the snapshot to learn from; the latest by default"
    )

    @step
    @report_errors
    def start(self):
        """Open the snapshot and begin the run."""
        from jollyboat.snapshots import snapshot
        from jollyboat.training import run
        from jollyboat.training.shards import shards_of

        self.began_at = self.now()
        opened = snapshot.open(self.snapshot, self.store())
        is_small = opened.manifest["tables"][opened.features]["rows"] < FEW_ROWS
        self.shards = shards_of(opened, self._settings(), is_small)
        started = run.begin(self.store(), opened.id, self._learned_with())
        self.run_id, self.is_finished = started.id, started.is_finished
        self.next(self.fit, foreach="shards")

    @step
    @report_errors
    def fit(self):
        """Fit this shard's candidates of the shared model, and its tenants' own models."""
        self.fitted, self.own = {}, {}
        if not self.is_finished:
            learner = self._learner()
            for name in self.input.candidates:
                with self.stage(f"fit {name}") as stage:
                    self.fitted[name] = learner.fit(name, self._run().model(name))
                    stage.rows = learner.train_rows
            if self.input.tenants:
                with self.stage(f"fit {self.input.own_title}") as stage:
                    folder = self._run().folder / "tenants"
                    self.own = learner.fit_tenants(self.input.tenants, folder)
                    stage.rows = sum(each["rows"] for each in self.own.values())
        self.task, self.cost = self.input.title, self.resource_usage()
        self.next(self.compare)

    @step
    @report_errors
    def compare(self, inputs):
        """Evaluate every candidate with intervals; validation chooses one."""
        self.merge_artifacts(inputs, include=["run_id", "began_at", "is_finished"])
        if not self.is_finished:
            learner = self._learner()
            fitted = {name: one for each in inputs for name, one in each.fitted.items()}
            with self.stage("evaluate candidates") as stage:
                metrics = learner.compare(fitted, self._run().folder / "candidates")
                stage.rows = learner.holdout_rows
            if "ranking" not in metrics:
                own = {tenant: one for each in inputs for tenant, one in each.own.items()}
                with self.stage("compare own models") as stage:
                    shared = fitted[metrics["chosen"]]
                    results, holdout, metrics["own_models"] = learner.compare_tenants(own, shared)
                    self._run().keep_own_models(results, holdout)
                    stage.rows = len(holdout)
            self._run().finish(
                metrics=metrics,
                predictions=learner.predictions(fitted),
                schema=learner.schema(fitted),
                feature_sql=self._opened().feature_sql,
                costs={each.task: each.cost for each in inputs}
                | {"compare": self.resource_usage()},
                seconds=self.seconds_since(self.began_at),
            )
        self.next(self.end)

    @card(type="html")
    @step
    @report_errors
    def end(self):
        """Write the run's page."""
        from jollyboat.training import run

        finished = self._run()
        self.html = run.write_page(finished, self.title("Training run"))
        print(run.format_summary(finished, self.is_finished, self.seconds_since(self.began_at)))

    def _learned_with(self) -> dict:
        settings = self._settings()
        names = [*LEARNED_WITH, *settings["train"]["candidates"]]
        return {name: settings[name] for name in names if name in settings}

    def _settings(self) -> dict:
        return self.settings.model_dump(mode="json")

    def _run(self):
        from jollyboat.training.run import Run

        return Run(self.store(), self.run_id)

    def _opened(self):
        from jollyboat.snapshots import snapshot

        return snapshot.open(self._run().snapshot_id, self.store())

    def _learner(self):
        from jollyboat.ranking.learner import learner_of

        return learner_of(self._opened(), self._settings())


if __name__ == "__main__":
    TrainFlow()
