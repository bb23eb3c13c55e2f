"""DataFlow on many machines, for a cluster with `[cluster] data_shards` above 1 in project.toml.

Its tables are those of `flows/data.py`, whose first step it takes apart.
"""

from data import DataFlow as DataFlowOfOneTask
from jollyboat.flows import report_errors

from metaflow import step

KEPT = ["began_at", "landing", "plan", "shards"]


class DataFlow(DataFlowOfOneTask):
    """Read raw files by shards of files, build tables by shards of tenants, and publish once."""

    scopes = dict.fromkeys(("build_events", "find_data_end", "build_tables"), "shards") | {
        "read": "staged",
        "publish": "tables",
    }

    @step
    @report_errors
    def start(self):
        """Land new files, and plan the shards."""
        from jollyboat.warehouse import shards, warehouse

        store = self.store()
        with warehouse.locked(store, run_process=self.process()):
            self.landing = self._land(store)
            self.plan = shards.plan(store, self.landing, self.settings.cluster.data_shards)
        self.numbers = list(range(self.plan.count))
        self.next(self.read, foreach="numbers")

    @step
    @report_errors
    def read(self):
        """Read the new raw files of this shard, once and for all."""
        from jollyboat.warehouse import shards

        with self.stage(f"read raw files {self.input + 1}") as stage:
            self.counts = shards.stage(self.store(), self.plan, self.input)
            stage.rows = sum(self.counts.values())
        self.next(self.deal)

    @step
    def deal(self, inputs):
        """Deal the tenants to shards of about the same number of events."""
        from jollyboat.warehouse import shards

        self.merge_artifacts(inputs, include=KEPT[:-1])
        self.shards = shards.deal([each.counts for each in inputs], self.plan.count)
        self.next(self.split_events)

    @step
    def split_events(self):
        """Start a task for each shard; Metaflow does not let a step that joins do so."""
        self.next(self.build_events, foreach="shards")

    @step
    @report_errors
    def build_events(self):
        """Build the events of this shard's tenants."""
        from jollyboat.warehouse import shards

        with self.stage(f"build events {self.input.number + 1}") as stage:
            shards.build_events(self.store(), self.plan, self.input)
            stage.rows = self.input.event_count
        self.next(self.find_data_end)

    @step
    @report_errors
    def find_data_end(self, inputs):
        """Find where the data end, which the events of all tenants say."""
        from jollyboat.warehouse import shards

        self.merge_artifacts(inputs, include=KEPT)
        with self.stage("find the data's end"):
            shards.build_data_end(self.store(), self.plan, self.shards)
        self.next(self.split_tables)

    @step
    def split_tables(self):
        """Start a task for each shard."""
        self.next(self.build_tables, foreach="shards")

    @step
    @report_errors
    def build_tables(self):
        """Build sessions, features and all other tables of this shard's tenants."""
        from jollyboat.warehouse import shards

        with self.stage(f"build tables {self.input.number + 1}"):
            shards.build_tables(self.store(), self.plan, self.input)
        self.next(self.publish)

    @step
    @report_errors
    def publish(self, inputs):
        """Join the tables, audit them and publish a snapshot."""
        from jollyboat.audit import audit
        from jollyboat.warehouse import shards, warehouse

        self.merge_artifacts(inputs, include=KEPT)
        store = self.store()
        with warehouse.locked(store, run_process=self.process()) as lock:
            with self.stage("join tables") as stage:
                build = shards.join(store, self.plan, self.shards, lock)
                audit.load_gx()
                warehouse.finish_dbt(store, build)
                stage.rows = warehouse.count_rows(store, "events")
            self._publish(store, self.landing)
        self.next(self.end)


if __name__ == "__main__":
    DataFlow()
