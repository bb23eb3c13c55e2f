"""A bundle over a whole snapshot: its own feature SQL and model, in one vectorised pass."""

import duckdb
import pandas as pd

from ml.candidates import load_module
from ml.schema import FeatureSchema
from rails.bundle import Bundle
from rails.snapshot import Snapshot

KEYS = ["tenant_id", "entity_id", "point_at"]


def compute_features(feature_sql: str, lookups: list[str], snapshot: Snapshot, entities: pd.DataFrame) -> pd.DataFrame:
    """The features of the entities (tenant_id, entity_id) by this SQL, over the snapshot's events and lookups; by key."""
    with duckdb.connect() as connection:
        connection.execute("attach ':memory:' as warehouse; use warehouse; set TimeZone = 'UTC'")
        connection.register("asked", entities[KEYS[:2]])
        for table in ["events_at_point", *lookups]:
            files = [str(path) for path in snapshot.files(table)]
            only = "semi join asked using (tenant_id, entity_id)" if table == "events_at_point" else ""
            connection.execute(
                f"create table {table} as select * from read_parquet({files}, hive_partitioning = false) {only}"
            )
        return connection.sql(f"select * from ({feature_sql.strip().rstrip(';')}) order by tenant_id, entity_id").df()


def predict(bundle: Bundle, snapshot: Snapshot, entities: pd.DataFrame) -> pd.DataFrame:
    """The keys of the entities with the bundle's probability of each."""
    features = compute_features(bundle.feature_sql, list(bundle.lookups), snapshot, entities)
    module = load_module(bundle.candidate)
    columns = FeatureSchema.from_dict(bundle.schema).names
    probability = module.predict_proba(module.load(bundle.model), features[columns])
    return features[KEYS].assign(probability=probability)
