"""Batch scores of a snapshot: `python flows/score.py run [--snapshot ID] [--tenant ID]`."""

from jollyboat.flows import QuestionFlow, report_errors

from metaflow import Parameter, card, step


class ScoreFlow(QuestionFlow):
    """Score the last days' sessions at their point; write Parquet, CSV and a page."""

    snapshot = Parameter(
        "snapshot", default="", help="the snapshot to score; the latest by default"
    )
    tenant = Parameter("tenant", default="", help="the one tenant to score; all by default")

    @step
    @report_errors
    def start(self):
        """Score each tenant's newest sessions with its champion."""
        from jollyboat.serving import batch_scores, ranking_scores
        from jollyboat.snapshots import snapshot
        from jollyboat.store import read_json

        self.began_at = self.now()
        opened = snapshot.open(self.snapshot, self.store())
        with self.stage("score sessions") as stage:
            scoring = ranking_scores if opened.is_ranking else batch_scores
            days, private = self.settings.score.days, self.settings.tenants.private
            self.scores_id = scoring.score(opened, days, self.tenant, private)
            stage.rows = read_json(self.store().scores / self.scores_id / "scores.json")["rows"]
        self.next(self.end)

    @card(type="html")
    @step
    @report_errors
    def end(self):
        """Write the page."""
        from jollyboat.serving import score_report

        folder = self.store().scores / self.scores_id
        self.html = score_report.write_page(folder, self.title("Batch scores"))
        print(score_report.format_summary(folder, self.seconds_since(self.began_at)))


if __name__ == "__main__":
    ScoreFlow()
