"""A small bundle and a lookup made by hand: features of the events and of a product, a tree that reads them."""

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from jollyboat.bundles.bundle import Bundle, Parts, assemble
from jollyboat.bundles.model import answer_sample
from jollyboat.serving.deployment_checks import sample_request
from jollyboat.store import Store, write_json
from jollyboat.training.estimators import Model
from jollyboat.training.persistence import save
from jollyboat.training.schema import Feature, FeatureSchema

FEATURE_SQL = """
with events as (
    select * from "warehouse"."main"."events_at_point"
),

products as (
    select * from "warehouse"."main"."lookup_product"
),

sums as (
    select
        tenant_id,
        entity_id,
        point_at,
        count(*) as event_count,
        count(*) filter (where event_type = 'cart_add') as cart_add_count,
        max(price) as max_price,
        max_by(product_id, event_number) as last_product_id,
        max_by(device, event_number) as device
    from events
    group by all
)

select
    sums.tenant_id,
    sums.entity_id,
    sums.point_at,
    sums.event_count,
    sums.cart_add_count,
    sums.max_price,
    sums.device,
    products.popularity as product_popularity
from sums
left join products
    on
        sums.tenant_id = products.tenant_id
        and sums.last_product_id = products.key
        and cast(sums.point_at as date) >= products.valid_from
        and (products.valid_to is null or cast(sums.point_at as date) < products.valid_to)
"""
LOOKUPS = {
    "lookup_product": {
        "tenant_id": "VARCHAR",
        "key": "VARCHAR",
        "valid_from": "DATE",
        "valid_to": "DATE",
        "popularity": "BIGINT",
    }
}
SCHEMA = FeatureSchema(
    (
        Feature("event_count", "number"),
        Feature("cart_add_count", "number"),
        Feature("max_price", "number"),
        Feature("device", "category", ("desktop", "mobile")),
        Feature("product_popularity", "number"),
    )
)
CONTRACT = {
    "request_id",
    "tenant_id",
    "entity_id",
    "status",
    "probability",
    "decision",
    "threshold",
    "champion",
    "model_version",
    "variant",
}
BROWSED, CARTED, POPULAR = 0.05, 0.4, 0.7
CART_EFFECT = 0.831298  # from the rate of all but the popular ones to CARTED, in log-odds


def event(number: int = 1, **fields: object) -> dict:
    """A plain event, one minute after the one before it."""
    plain = {
        "event_id": f"e{number}",
        "event_type": "page_view",
        "occurred_at": f"2026-01-05T10:{number:02d}:00Z",
    }
    return plain | {"anonymous_id": "a1", "device": "mobile"} | fields


def make_tree(carted: float) -> Model:
    """POPULAR for a popular last product, else `carted` with something in the cart, else BROWSED."""
    rows = np.repeat([[0, 0, 0, 0, 200], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], 20, axis=0).astype(
        float
    )
    label = np.concatenate(
        [np.arange(20) < round(20 * rate) for rate in (POPULAR, carted, BROWSED)]
    )
    fill = ColumnTransformer([("few", SimpleImputer(strategy="constant", fill_value=0), [1, 4])])
    tree = make_pipeline(fill, DecisionTreeClassifier(random_state=0)).fit(rows, label)
    return Model(SCHEMA, tree, typical=rows[[0, 20, 40]])


def make_bundle(
    store: Store,
    owner: str = "shared",
    carted: float = CARTED,
    sql: str = FEATURE_SQL,
    **question: object,
) -> Bundle:
    """A bundle of such a tree."""
    model = store.root / f"saved-{carted}"
    model.mkdir(parents=True, exist_ok=True)
    save(make_tree(carted), model)
    request = sample_request({"event_type": ["page_view", "cart_add"], "device": ["mobile"]})
    parts = Parts(
        candidate="baseline",
        model=model,
        feature_sql=sql,
        schema=SCHEMA.to_dict(),
        lookups=LOOKUPS,
        sample=answer_sample(model, FEATURE_SQL, LOOKUPS, 0.3, request),
        card="<html><title>Card</title></html>",
        threshold=0.3,
        run="run-1",
        snapshot="snapshot-1",
        code="code-1",
        metrics={"average_precision": {"value": 0.3, "low": None, "high": None}},
        **question,
    )
    return assemble(parts, store, owner)


def trial_of(challenger: Bundle, champion: Bundle) -> dict:
    """The experiment that gives the challenger 0.3 of the visitors."""
    who = {"owner": challenger.owner, "version": challenger.version, "champion": champion.version}
    return who | {"salt": "s", "share": 0.3, "since": "2026-01-01T00:00:00+00:00"}


def write_lookup(store: Store, rows: pd.DataFrame) -> Path:
    """A file of lookup_product below the store's tables."""
    path = store.tables / "lookup_product" / "dt=2026-01-01" / "rows.parquet"
    path.parent.mkdir(parents=True)
    duckdb.from_df(rows).to_parquet(str(path))
    return path


def publish_lookup(store: Store) -> None:
    """A snapshot of nothing but that file."""
    table = {
        "columns": LOOKUPS["lookup_product"],
        "files": [{"file": "dt=2026-01-01/rows.parquet"}],
    }
    write_json(store.snapshots / "made-up" / "manifest.json", {"tables": {"lookup_product": table}})
    write_json(store.latest_snapshot, {"snapshot": "made-up"})
