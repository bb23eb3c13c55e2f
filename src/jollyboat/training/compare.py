"""Two training runs side by side, or all of them in a table, from their folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jollyboat.pages import page
from jollyboat.store import Store, read_json
from jollyboat.training import run as runs
from jollyboat.training.run import Run, interval

FIGURES = (
    "average_precision",
    "roc_auc",
    "log_loss",
    "calibration_error",
    "expected_value_per_1000",
)
MOST_CHANGED, LEAST_CHANGE = 10, 0.0005


@dataclass(frozen=True)
class Comparison:
    """What differs between run a and run b: settings, data, features, figures, segments, predictions."""

    a: Run
    b: Run

    @cached_property
    def settings(self) -> list[tuple[str, object, object]]:
        """Each setting, snapshot, code and libraries included, that is not the same."""
        before, after = _flat(self.a.settings), _flat(self.b.settings)
        names = dict.fromkeys([*before, *after])
        both = [(name, before.get(name, "not set"), after.get(name, "not set")) for name in names]
        return [(name, one, two) for name, one, two in both if one != two]

    @cached_property
    def data(self) -> list[tuple[str, Mapping, Mapping]]:
        """The parts of both."""
        return [
            (name, self.a.metrics["split"][name], part)
            for name, part in self.b.metrics["split"].items()
        ]

    @cached_property
    def features(self) -> tuple[list[str], list[str]]:
        """Those that only a has, and those that only b has."""
        before, after = (
            {each["name"] for each in run.schema["features"]} for run in (self.a, self.b)
        )
        return sorted(before - after), sorted(after - before)

    @cached_property
    def figures(self) -> list[tuple[str, Mapping, Mapping]]:
        """Each figure of the chosen candidates on their holdouts."""
        return [
            (name, _best(self.a)["holdout"][name], _best(self.b)["holdout"][name])
            for name in FIGURES
        ]

    @cached_property
    def segments(self) -> list[tuple[str, Mapping, Mapping]]:
        """The segments that both can judge, the largest change of average precision first."""
        before = {
            (each["segment"], each["value"]): each
            for each in _best(self.a)["segments"]
            if not each["too_small"]
        }
        both = [
            (f"{each['segment']} {each['value']}", before[each["segment"], each["value"]], each)
            for each in _best(self.b)["segments"]
            if not each["too_small"] and (each["segment"], each["value"]) in before
        ]
        return sorted(
            both, key=lambda pair: -abs(pair[1]["average_precision"] - pair[2]["average_precision"])
        )

    @cached_property
    def changed(self) -> tuple[int, list[dict]]:
        """How many held-out sessions both predicted, and those whose probability changed most."""
        keys = ["tenant_id", "entity_id", "point_at"]
        before, after = (
            run.predictions()[[*keys, "label", run.chosen]].rename(columns={run.chosen: name})
            for run, name in ((self.a, "before"), (self.b, "after"))
        )
        both = before.merge(after.drop(columns="label"), on=keys)
        moved = (both["after"] - both["before"]).abs().sort_values(ascending=False, kind="stable")
        return len(both), both.loc[moved[moved > LEAST_CHANGE].index[:MOST_CHANGED]].to_dict(
            "records"
        )


def tell(comparison: Comparison) -> str:
    """The comparison as lines for the terminal."""
    a, b = comparison.a, comparison.b
    lines = [f"{'':<26}{a.id + ' ' + a.chosen:<32}{b.id + ' ' + b.chosen}"]
    lines += [f"{name:<26}{before!s:<32}{after!s}" for name, before, after in comparison.settings]
    for name, before, after in comparison.data:
        lines.append(f"{name + ' rows (rate)':<26}{_part(before):<32}{_part(after)}")
    lines += [
        f"{name:<26}{interval(one):<32}{interval(two)}" for name, one, two in comparison.figures
    ]
    for name, one, two in comparison.segments[:MOST_CHANGED]:
        lines.append(
            f"{name[:25]:<26}{one['average_precision']:<32.3f}{two['average_precision']:.3f}"
        )
    gone, new = comparison.features
    lines += [f"features gone: {', '.join(gone) or 'none'}; new: {', '.join(new) or 'none'}"]
    rows, changed = comparison.changed
    lines.append(f"{rows} sessions are in both holdouts{'; changed most:' if changed else ''}")
    for each in changed:
        told = (
            f"{each['before']:.3f} became {each['after']:.3f}, the outcome was {each['label']:.0f}"
        )
        lines.append(f"  {each['tenant_id']} {each['entity_id']}: {told}")
    return "\n".join(lines)


def table(store: Store) -> str:
    """A line for each finished run, the newest first."""
    finished = [
        (read_json(path)["finished_at"], path.parent.name) for path in store.runs.glob("*/run.json")
    ]
    lines = [
        f"{'run':<14}{'finished at':<18}{'snapshot':<14}{'chosen':<12}{'average precision (95 %)':<28}{'seconds':>8}"
    ]
    for at, name in sorted(finished, reverse=True):
        run = Run(store, name)
        precision = interval(_best(run)["holdout"]["average_precision"])
        seconds = f"{run.cost.get('seconds', float('nan')):>8.1f}"
        lines.append(
            f"{name:<14}{at[:16]:<18}{run.snapshot_id:<14}{run.chosen:<12}{precision:<28}{seconds}"
        )
    return (
        "\n".join(lines) if lines[1:] else "There is no training run yet: `make train` makes one."
    )


def compare(store: Store, run_a: str, run_b: str) -> tuple[Comparison, Path]:
    """Two runs side by side, and the page that shows them; UserError where one is unknown."""
    comparison = Comparison(*(runs.open(run_id, store) for run_id in (run_a, run_b)))
    path = store.reports / f"compare-{comparison.a.id}-{comparison.b.id}.html"
    page.write(path, "compare.html", title="Two runs", comparison=comparison)
    return comparison, path


def _best(run: Run) -> Mapping:
    return run.metrics["candidates"][run.chosen]


def _flat(settings: Mapping, above: str = "") -> dict[str, object]:
    """Each setting by the names on its way, a list as words."""
    flat = {}
    for name, value in settings.items():
        told = ", ".join(map(str, value)) if isinstance(value, list) else value
        flat |= (
            _flat(value, f"{above}{name}.")
            if isinstance(value, Mapping)
            else {f"{above}{name}": told}
        )
    return flat


def _part(part: Mapping) -> str:
    return f"{part['rows']:,} ({100 * part['label_rate']:.2f} %)"
