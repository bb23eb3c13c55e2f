"""A snapshot -> compared candidates: `python flows/train.py run [--snapshot ID]`."""

from jollyboat.flows import QuestionFlow, report_errors

from metaflow import Parameter, card, step

LEARNED_WITH = ("split", "train", "decision", "evaluate")
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

        self.began_at = self.now()
        opened = snapshot.open(self.snapshot, self.store())
        candidates = self.settings.train.candidates
        is_small = opened.manifest["tables"][opened.features]["rows"] < FEW_ROWS
        self.shards = [candidates] if is_small else [[name] for name in candidates]
        started = run.begin(self.store(), opened.id, self._learned_with())
        self.run_id, self.is_finished = started.id, started.is_finished
        self.next(self.fit, foreach="shards")

    @step
    @report_errors
    def fit(self):
        """Fit one candidate (all if rows are few); score validation and holdout."""
        self.fitted = {}
        if not self.is_finished:
            from jollyboat.training import training

            split, schema = self._prepare()
            for name in self.input:
                folder = self._run().model(name)
                with self.stage(f"fit {name}") as stage:
                    fitted = training.fit_candidate(name, split, schema, self._settings(), folder)
                    stage.rows = len(split.train)
                self.fitted[name] = fitted
        self.task, self.cost = ", ".join(self.input), self.resource_usage()
        self.next(self.compare)

    @step
    @report_errors
    def compare(self, inputs):
        """Evaluate every candidate with intervals; validation chooses one."""
        self.merge_artifacts(inputs, include=["run_id", "began_at", "is_finished"])
        if not self.is_finished:
            from jollyboat.snapshots import snapshot
            from jollyboat.training import training

            split, schema = self._prepare()
            fitted = {name: one for each in inputs for name, one in each.fitted.items()}
            opened = snapshot.open(self._run().snapshot_id, self.store())
            with self.stage("evaluate candidates") as stage:
                saved = self._run().folder / "candidates"
                metrics = training.compare(
                    split, schema, fitted, self._settings(), saved, opened.horizon_days
                )
                stage.rows = len(split.holdout)
            self._run().finish(
                metrics=metrics,
                predictions=training.holdout_predictions(split, fitted),
                schema=schema.to_dict(),
                feature_sql=opened.feature_sql,
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

    def _prepare(self):
        from jollyboat.snapshots import snapshot
        from jollyboat.training import training

        opened = snapshot.open(self._run().snapshot_id, self.store())
        return training.prepare(opened.training_rows(), self._settings(), opened.horizon_days)


if __name__ == "__main__":
    TrainFlow()
