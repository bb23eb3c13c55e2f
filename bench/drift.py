"""How often the monitor cries wolf, and how soon it notices: simulated days judged with the settings as shipped.

build/demo/.venv/bin/python bench/drift.py        a table; days are counted from the one on which something moved
"""

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PROJECT))

from jollyboat.monitoring.drift import Table, watch  # noqa: E402 (the path comes first)

SESSIONS, TRAINING, LIVE, MOVES_ON = 400, 30, 100, 30
LIMITS = tomllib.loads((PROJECT / "project.toml").read_text())["monitor"]
KINDS = ["ads", "mail", "search", "social", "direct", "none"]


def draw(rng: np.random.Generator, first: int, days: int) -> pd.DataFrame:
    """Thirty features of three kinds, a weekly swing in two of them, the hour and the day of the week."""
    day = np.repeat(np.arange(first, first + days), SESSIONS)
    rows, weekend = {"tenant_id": "shop", "day": day}, day % 7 >= 5
    for number in range(10):
        rows[f"amount_{number}"] = rng.normal(size=len(day))
        rows[f"count_{number}"] = rng.poisson(1.2, len(day)).astype(float)
        rows[f"kind_{number}"] = rng.choice(KINDS, len(day), p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    rows["amount_1"] = rows["amount_1"] + 0.8 * weekend
    rows["kind_1"] = np.where(weekend & (rng.random(len(day)) < 0.3), "social", rows["kind_1"])
    rows["seldom_known"] = np.where(rng.random(len(day)) < 0.8, np.nan, rng.random(len(day)))
    return pd.DataFrame(rows | {"hour": rng.integers(0, 24, len(day)), "weekday": day % 7})


def sudden(live: pd.DataFrame, since: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    moved = (since >= 0) & (rng.random(len(live)) < 0.2)
    return live.assign(
        amount_0=live["amount_0"] + 0.5 * (since >= 0),
        kind_0=np.where(moved, "social", live["kind_0"]),
    )


def slow(live: pd.DataFrame, since: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    return live.assign(amount_0=live["amount_0"] + 0.04 * np.clip(since + 1, 0, 30))


def broken(live: pd.DataFrame, since: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    return live.assign(
        amount_0=live["amount_0"].where(since < 0),
        count_0=live["count_0"].where(since < 0, 0.0),
        kind_0=live["kind_0"].where(since < 0),
    )


def season(live: pd.DataFrame, since: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """A swing over four weeks that training, of one flat month, has not seen; from the first live day on."""
    swing = np.sin(2 * np.pi * (since + MOVES_ON) / 28)
    return live.assign(amount_0=live["amount_0"] + 0.8 * swing)


def opened(live: pd.DataFrame, reference: pd.DataFrame) -> dict[str, list[int]]:
    """The live days, counted from the first, on which an incident of each feature began."""
    days = sorted(live["day"].unique())
    begun: dict[str, set[int]] = {}
    for series in watch([Table(reference, live)], days, LIMITS):
        rises = np.flatnonzero(np.diff(series.state["is_open"].astype(int), prepend=0) > 0)
        begun.setdefault(series.feature, set()).update(rises.tolist())
    return {feature: sorted(actual) for feature, actual in begun.items() if actual}


def measure(seed: int) -> dict:
    """False alarms in a hundred quiet days, days of data until each drift is noticed, alarms after the first cycle."""
    rng = np.random.default_rng(seed)
    reference, live = draw(rng, 0, TRAINING), draw(rng, TRAINING, LIVE)
    since = live["day"].to_numpy() - TRAINING - MOVES_ON
    actual = {"seed": seed, "false_alarms": sum(map(len, opened(live, reference).values()))}
    for name, moved, features in (
        ("sudden", sudden, ["amount_0", "kind_0"]),
        ("slow", slow, ["amount_0"]),
        ("broken", broken, ["amount_0", "count_0", "kind_0"]),
    ):
        begun = opened(moved(live, since, rng), reference)
        actual[name] = max(
            min(day for day in begun[feature] if day >= MOVES_ON) - MOVES_ON + 1
            for feature in features
        )
    swings = opened(season(live, since, rng), reference).get("amount_0", [])
    return actual | {
        "season_first": len([day for day in swings if day < 28]),
        "season_after": len([day for day in swings if day >= 28]),
    }


def main() -> None:
    head = (
        "seed",
        "false alarms",
        "sudden, day",
        "slow, day",
        "broken, day",
        "swing, first cycle",
        "after it",
    )
    print("".join(f"{name:>20}" for name in head))
    for seed in range(3):
        actual = measure(seed)
        print("".join(f"{value:>20}" for value in actual.values()))
        print(json.dumps(actual), file=sys.stderr)


if __name__ == "__main__":
    main()
