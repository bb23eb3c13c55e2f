"""A look at a snapshot and a training run: `.venv/bin/python docs/explore.py`, or in a notebook."""

# %% The latest snapshot: every table as a DuckDB relation, to go on in SQL, or as a data frame
from jollyboat.snapshots import snapshot
from jollyboat.training import run

import matplotlib.pyplot as plt

shot = snapshot.open_latest()
print(f"snapshot {shot.id}: {', '.join(shot.manifest['tables'])}")

# %% A relation reads its Parquet files only as far as the query asks; `.df()` makes it a frame
events = shot.relation("events")
print(
    events.aggregate(
        "event_type, count(*) as event_count, avg(is_outcome::int) as outcome_rate"
    ).order("2 desc")
)

# %% SQL over several tables
sessions = shot.relation("sessions")
features = shot.relation("session_features")
joined = features.set_alias("f").join(
    sessions.set_alias("s"), "f.tenant_id = s.tenant_id and f.entity_id = s.session_id"
)
print(
    joined.aggregate(
        "f.status, count(*) as session_count, avg(s.event_count) as mean_event_count"
    ).order("2 desc")
)

# %% The sessions that teach, as a frame
teaching = shot.frame("session_features").query("status == 'train'")
print(teaching.select_dtypes("number").describe().T[["count", "mean", "min", "max"]].to_string())

# %% Plot 1: how often the outcome follows, by the session's last event when it was looked at
rates = teaching.assign(label=teaching["label"].astype(float)).groupby("last_event_type")["label"]
rates = rates.agg(["mean", "size"]).query("size >= 20").sort_values("mean")
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.barh([f"{name} ({size:,})" for name, size in rates["size"].items()], rates["mean"])
axis.set(xlabel="share of sessions with the outcome", title=f"Snapshot {shot.id}")
folder = shot.store.root / "explore"
folder.mkdir(exist_ok=True)
figure.savefig(folder / "outcome_by_last_event.png", dpi=150)

# %% The latest training run: its figures, and its holdout with a column per candidate
latest = run.open("")
metrics = latest.metrics
for name, one in metrics["candidates"].items():
    strongest = ", ".join(list(one["importance"])[:3])
    print(f"{name:<12}ROC AUC {one['holdout']['roc_auc']['value']:.3f}; {strongest} weigh most")
holdout = latest.predictions()

# %% Plot 2: what a probability means, in ten bins of the holdout
figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
for name in metrics["candidates"]:
    bins = holdout.groupby(holdout[name].rank(method="first").mul(10).floordiv(len(holdout) + 1))
    axis.plot(bins[name].mean(), bins["label"].mean(), marker="o", label=name)
axis.axline((0, 0), slope=1, color="grey", linestyle=":")
axis.set(xlabel="probability", ylabel="share with the outcome", title=f"Run {latest.id}")
axis.legend()
figure.savefig(folder / "calibration.png", dpi=150)

# %% Which held-out sessions was the chosen candidate most wrong about?
holdout["error"] = (holdout["label"] - holdout[metrics["chosen"]]).abs()
worst = holdout.nlargest(5, "error")[
    ["tenant_id", "entity_id", "point_at", "label", metrics["chosen"]]
]
print(
    worst.merge(
        teaching.drop(columns="label"), on=["tenant_id", "entity_id", "point_at"]
    ).T.to_string()
)
print(f"plots: {folder}")
