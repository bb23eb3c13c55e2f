"""Training runs side by side, or all runs in a table, from their folders alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from jollyboat.pages import page
from jollyboat.pages.terminal import format_count, format_percent, join_lines
from jollyboat.store import Store, UserError, read_json
from jollyboat.training import run as runs
from jollyboat.training.evaluate import difference
from jollyboat.training.run import Run, headline, interval

FIGURES = (
    "average_precision",
    "roc_auc",
    "log_loss",
    "calibration_error",
    "expected_value_per_1000",
)
MOST_CHANGED, LEAST_CHANGE, RESAMPLES = 10, 0.0005, 500
MOST_RUNS = 200  # of the table, the newest
KEYS = ["tenant_id", "entity_id", "point_at"]


@dataclass(frozen=True)
class Comparison:
    """The differences of run a and run b, on the rows that the holdouts of `others` have, too."""

    a: Run
    b: Run
    others: Sequence[Run] = ()

    @cached_property
    def settings(self) -> list[tuple[str, object, object]]:
        """Each setting that differs; snapshot, code and libraries count as settings."""
        before, after = _flat(self.a.settings), _flat(self.b.settings)
        names = dict.fromkeys([*before, *after])
        both = [(name, before.get(name, "not set"), after.get(name, "not set")) for name in names]
        return [(name, one, two) for name, one, two in both if one != two]

    @cached_property
    def data(self) -> list[tuple[str, Mapping, Mapping]]:
        """Train, validation and holdout of both runs."""
        before, after = self.a.metrics["split"], self.b.metrics["split"]
        return [(name, before[name], after[name]) for name in after]

    @cached_property
    def features(self) -> tuple[list[str], list[str]]:
        """The features that only a has, and those that only b has."""
        before = {feature["name"] for feature in self.a.schema["features"]}
        after = {feature["name"] for feature in self.b.schema["features"]}
        return sorted(before - after), sorted(after - before)

    @cached_property
    def figures(self) -> list[tuple[str, Mapping, Mapping]]:
        """Each figure of the chosen candidates on their holdouts."""
        before, after = _best(self.a)["holdout"], _best(self.b)["holdout"]
        return [(name, before[name], after[name]) for name in FIGURES]

    @cached_property
    def segments(self) -> list[tuple[str, Mapping, Mapping]]:
        """The segments that both can judge, the largest change of average precision first."""
        before, after = _judged_segments(self.a), _judged_segments(self.b)
        both = [
            (" ".join(key), before[key], segment) for key, segment in after.items() if key in before
        ]
        return sorted(both, key=lambda row: -_change(row[1], row[2]))

    @cached_property
    def shared(self) -> pd.DataFrame:
        """The sessions of both holdouts, with label and probability `before` and `after`."""
        before = self.a.predictions().rename(columns={self.a.chosen: "before"})
        after = self.b.predictions().rename(columns={self.b.chosen: "after"})
        columns = ["label", "before", *before.columns.intersection(["person"])]
        rows = before[[*KEYS, *columns]].merge(after[[*KEYS, "after"]], on=KEYS)
        for other in self.others:
            rows = rows.merge(other.predictions()[KEYS], on=KEYS)
        return rows

    @cached_property
    def lead(self) -> Mapping | None:
        """Average precision of b less that of a on the shared sessions; None if none has it."""
        rows = self.shared
        if rows["label"].nunique() < 2:
            return None
        persons = rows["person"].to_numpy() if "person" in rows else None
        scores = (rows[name].to_numpy() for name in ("label", "after", "before"))
        return difference(*scores, RESAMPLES, 0, persons)

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval of b's lead is on one side of 0, else `open`."""
        low, high = (self.lead or {}).get("low"), (self.lead or {}).get("high")
        if low is None or low <= 0 <= high:
            return "open"
        return "better" if low > 0 else "worse"

    @cached_property
    def changed(self) -> tuple[int, list[dict]]:
        """How many held-out sessions both predicted, and those whose probability changed most."""
        both = self.shared
        change = (both["after"] - both["before"]).abs().sort_values(ascending=False, kind="stable")
        most = change[change > LEAST_CHANGE].index[:MOST_CHANGED]
        return len(both), both.loc[most].to_dict("records")


def format_comparison(comparison: Comparison) -> str:
    """The comparison as lines for the terminal."""
    a, b = comparison.a, comparison.b
    rows = [("", f"{a.id} {a.chosen}", f"{b.id} {b.chosen}"), *comparison.settings]
    rows += [(f"{name} rows (rate)", _part(one), _part(two)) for name, one, two in comparison.data]
    rows += [(name, interval(one), interval(two)) for name, one, two in comparison.figures]
    rows.append(("lead on shared sessions", "", _lead(comparison)))
    for name, one, two in comparison.segments[:MOST_CHANGED]:
        precisions = (f"{segment['average_precision']:.3f}" for segment in (one, two))
        rows.append((name[:25], *precisions))
    lines = [f"{name:<26}{before!s:<32}{after!s}" for name, before, after in rows]
    removed, added = (", ".join(names) or "none" for names in comparison.features)
    lines.append(f"features removed: {removed}; added: {added}")
    count, changed = comparison.changed
    most = "; changed most:" if changed else ""
    lines.append(f"{format_count(count, 'session')} in both holdouts{most}")
    lines += [
        f"  {row['tenant_id']} {row['entity_id']}: "
        f"{row['before']:.3f} became {row['after']:.3f}, the outcome was {row['label']:.0f}"
        for row in changed
    ]
    return join_lines(lines)


def format_runs(store: Store) -> str:
    """A line for each finished run, the newest first."""
    finished = _finished(store)
    if not finished:
        return "There is no training run yet. Run `make train`."
    lines = []
    for at, run in finished:
        run_id = run.id
        measure, figure = headline(_best(run)["holdout"])
        seconds = run.cost.get("seconds", float("nan"))
        lines.append(
            f"{run_id:<14}{at[:16]:<18}{run.snapshot_id:<14}{run.chosen:<12}"
            f"{interval(figure):<28}{seconds:>8.1f}  {format_tags(run.tags)}".rstrip()
        )
    heading = (
        f"{'run':<14}{'finished at':<18}{'snapshot':<14}{'chosen':<12}"
        f"{f'{measure} (95 %)':<28}{'seconds':>8}  tags"
    )
    return join_lines([heading, *lines])


def format_tags(tags: Mapping) -> str:
    """A run's tags and its note."""
    return ": ".join(filter(None, [", ".join(tags["tags"]), tags["note"]]))


def write_table(store: Store, title: str) -> None:
    """Write reports/runs.html, the table of all finished runs, if there is one."""
    rows = [_row(at, run) for at, run in _finished(store)[:MOST_RUNS]]
    if rows:
        page.write(store, store.reports / "runs.html", "runs.html", title=title, rows=rows)


def _row(at: str, run: Run) -> dict:
    holdout = _best(run)["holdout"]
    measure, figure = headline(holdout)
    about = {"id": run.id, "at": at, "snapshot": run.snapshot_id, "chosen": run.chosen}
    value = holdout.get("expected_value_per_1000", {}).get("value")
    about |= {"measure": measure, "figure": figure, "value": value}
    return about | {"seconds": run.cost.get("seconds"), **run.tags}


def _finished(store: Store) -> list[tuple[str, Run]]:
    """When each finished run ended, and the run; the newest first."""
    paths = store.runs.glob("*/run.json")
    ended = [(read_json(path, finished_at=str)["finished_at"], path.parent.name) for path in paths]
    return [(at, Run(store, run_id)) for at, run_id in sorted(ended, reverse=True)]


def compare(store: Store, run_ids: Sequence[str]) -> tuple[list[Comparison], Path]:
    """Each run beside the first, on the rows of all, and the page; UserError if one is missing."""
    first, *rest = [runs.open(run_id, store) for run_id in run_ids]
    comparisons = [
        Comparison(first, run, [other for other in rest if other is not run]) for run in rest
    ]
    if first.is_ranking:
        raise UserError(
            "Runs of a ranking are not compared; `jollyboat runs --question "
            f"{store.question}` lists their figures."
        )
    path = store.reports / f"compare-{'-'.join(run.id for run in (first, *rest))}.html"
    page.write(store, path, "compare.html", title="Compared runs", comparisons=comparisons)
    return comparisons, path


def _lead(comparison: Comparison) -> str:
    if comparison.lead is None:
        return "unknown: no session with the outcome is in both holdouts"
    shared = format_count(len(comparison.shared), "session")
    return f"{interval(comparison.lead, signed=True)} on {shared}"


def _best(run: Run) -> Mapping:
    return run.metrics["candidates"][run.chosen]


def _judged_segments(run: Run) -> dict[tuple[str, str], Mapping]:
    segments = _best(run)["segments"]
    return {(one["segment"], one["value"]): one for one in segments if not one["too_small"]}


def _change(before: Mapping, after: Mapping) -> float:
    return abs(before["average_precision"] - after["average_precision"])


def _flat(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Each setting by its dotted name; a list becomes a text."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            is_list = isinstance(value, list)
            flat[prefix + name] = ", ".join(map(str, value)) if is_list else value
    return flat


def _part(part: Mapping) -> str:
    return f"{part['rows']:,} ({format_percent(part['label_rate'])})"
