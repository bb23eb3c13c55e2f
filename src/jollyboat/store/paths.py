"""Every path below `data/`. No other module builds these paths."""

import os
from pathlib import Path

from jollyboat.store.project import PROJECT
from jollyboat.store.remote import remote_address

SHARED = "shared"  # the owner of the model that all tenants share
TENANT_ID = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # a tenant that can own a model: a folder's name


class Store:
    """The files and folders of one project's data, all below `root`.

    Runs, models, scores and the monitor's files belong to one question: to the first one where
    `question` is empty. `remote` is the address of their copies in a bucket, or empty.
    """

    def __init__(self, root: Path, question: str = "", remote: str = ""):
        self.root, self.question, self.remote = root, question, remote
        home = root / "questions" / question if question else root
        self.raw = root / "raw"
        self.live = root / "live"
        self.salt = root / ".salt"
        self.landed = root / "landed"
        self.accepted_days = root / "accepted_days.json"
        self.staged = root / "staged"
        self.shards = root / "shards"  # tables of an unfinished build in shards
        self.warehouse = root / "warehouse.duckdb"
        self.dbt = root / "dbt"
        self.docs = root / "docs"  # dbt's pages
        self.tables = root / "tables"
        self.snapshots = root / "snapshots"
        self.latest_snapshot = root / "snapshots" / "latest.json"
        self.runs = home / "runs"
        self.latest_run = home / "runs" / "latest.json"
        self.models = home / "models"
        self.tenant_decisions = home / "models" / "tenants.json"
        self.experiment = home / "models" / "experiment.json"
        self.scores = home / "scores"
        self.withdrawn = root / "withdrawn" / f"{question}.txt"  # items that a ranking leaves out
        self.erasing = root / ".erasing.json"
        self.erasures = root / "erasures.jsonl"
        self.overview = root / "index.html"
        self.monitor = home / "monitor"
        self.reports = home / "reports"
        self.snapshot_pages = root / "reports" / "snapshots"  # the Data page of each snapshot
        self.data_docs = root / "reports" / "data_docs"
        self.audits = root / "reports" / "audits.json"
        self.distributions = root / "reports" / "distributions.json"
        self.failed_rows = root / "reports" / "failed_rows.json"

    def of(self, question: str) -> "Store":
        """The same data with the runs, models and scores of another question; "" is the first."""
        return Store(self.root, question, self.remote)

    def of_every_question(self) -> list["Store"]:
        """One store for each question that has files, the first question's at the front."""
        folders = sorted((self.root / "questions").glob("*"))
        return [self.of(""), *(self.of(path.name) for path in folders if path.is_dir())]

    def why_none(self) -> str:
        """Why there is no snapshot or no run: none was made yet, or an erasure removed it."""
        return "; an erasure or `make clean` removed it" if self.erasures.exists() else " yet"

    def read_salt(self) -> str:
        """The salt that personal texts are hashed with; empty before the first landing.

        PERSONAL_SALT comes before the file.
        """
        given = os.environ.get("PERSONAL_SALT", "").strip()
        if given:
            return given
        return self.salt.read_text(encoding="utf-8").strip() if self.salt.exists() else ""

    def bundle(self, owner: str, version: str) -> Path:
        """The folder of an owner's bundle."""
        return self.models / owner / version

    def gate(self, owner: str, version: str) -> Path:
        """The gate's report on a bundle."""
        return self.models / owner / f"{version}-gate.json"

    def champion(self, owner: str) -> Path:
        """The pointer to an owner's champion."""
        return self.models / owner / "champion.json"


def default_store() -> Store:
    """The store of the project's `data/`, or of the folder that STORE_ROOT names."""
    root = Path(os.environ.get("STORE_ROOT") or PROJECT / "data").absolute()
    return Store(root, remote=remote_address())
