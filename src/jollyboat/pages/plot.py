"""Scales for the charts that `templates/parts.html` draws: where a value stands, and which values are printed beside.

Charts are drawn on a square of 100 by 100 that the page stretches; their texts are HTML, so they read at any width.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from statistics import fmean

STEPS_OF_DAYS = (1, 2, 7, 14, 28, 56, 91, 182, 365)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; `ticks` are values in between to be printed."""

    low: float
    high: float
    ticks: list
    to_number: Callable = float

    def place(self, value) -> float:
        """How far along the axis a value stands, 0 to 100; what lies beyond an end stands at it."""
        share = (self.to_number(value) - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)


def axis(values: Iterable[float | None], most_ticks: int = 5) -> Axis:
    """An axis from 0 over all values that are known, with round ticks; the top one is its end."""
    high = max((float(value) for value in values if not is_unknown(value)), default=0.0)
    high = high if high > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(high / most_ticks))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power * most_ticks >= high * 0.9999)
    count = math.ceil(high / step - 1e-9)
    return Axis(0.0, count * step, [round(step * place, 12) for place in range(count + 1)])


def time_axis(moments: Iterable, most_ticks: int = 6) -> Axis:
    """An axis over whole days that hold all moments, with at most `most_ticks` dates as ticks."""
    found = sorted(moment_of(value) for value in moments if not is_unknown(value)) or [datetime(2000, 1, 1)]
    first, last = (datetime.combine(end, time()) for end in (found[0], found[-1] + timedelta(days=1)))
    days = (last - first).days
    step = next((size for size in STEPS_OF_DAYS if size * most_ticks >= days), math.ceil(days / most_ticks))
    ticks = [first + timedelta(days=place) for place in range(0, days, step)]
    return Axis(_seconds(first), _seconds(last), ticks, _seconds)


def trace(points: Iterable[Mapping], x_name: str, y_name: str, x: Axis, y: Axis) -> str:
    """The line through points, as the `d` of an SVG path; it is broken where a value is unknown."""
    parts, verb = [], "M"
    for point in points:
        if is_unknown(point[y_name]):
            verb = "M"
            continue
        parts.append(f"{verb}{x.place(point[x_name]):g} {y.place(point[y_name]):g}")
        verb = "L"
    return "".join(parts)


def graph(models: Iterable[Mapping]) -> dict:
    """A graph drawn downwards in boxes of 184 by 36, each below its `parents`, which come before it in `models`.

    Gives `nodes` (with `left` and `top`), `paths`, `width` and `height`. A line that others imply is left out.
    """
    layer, above, lines = {}, {}, []
    for model in models:
        name, parents = model["name"], [each for each in model["parents"] if each in layer]  # a seed is no model
        layer[name] = 1 + max((layer[parent] for parent in parents), default=-1)
        above[name] = set(parents).union(*(above[parent] for parent in parents))
        direct = [parent for parent in parents if not any(parent in above[other] for other in parents)]
        # A line leaves room for itself in the layers that it passes.
        lines += [[p, *((p, name, passed) for passed in range(layer[p] + 1, layer[name])), name] for p in direct]
    rows = [[name for name in layer if layer[name] == place] for place in range(max(layer.values(), default=-1) + 1)]
    before: dict = {}
    for line in lines:
        for bend in line[1:-1]:
            rows[bend[2]].append(bend)
        for start, end in pairwise(line):
            before.setdefault(end, []).append(start)
    sizes = [sum(_room(item) for item in row) for row in rows]
    width, middle = max(sizes, default=0), {}
    for row, size in zip(rows, sizes, strict=True):
        row.sort(key=lambda item: fmean([middle[each] for each in before.get(item, [])] or [width / 2]))
        left, gap = 0.0, (width - size) / len(row)
        for item in row:
            middle[item] = round(left + (gap + _room(item)) / 2)
            left += gap + _room(item)
    paths = []
    for line in lines:
        x, y = middle[line[0]], 60 * layer[line[0]] + 36
        path = f"M{x} {y}"
        for item in line[1:]:
            path += f"C{x} {y + 14} {middle[item]} {y + 10} {middle[item]} {y + 24}V{y + 60}"
            x, y = middle[item], y + 60
        paths.append(path)
    nodes = [{**model, "left": middle[model["name"]] - 92, "top": 60 * layer[model["name"]]} for model in models]
    return {"nodes": nodes, "paths": paths, "width": width, "height": max(60 * len(rows) - 20, 0)}


def _room(item: str | tuple) -> int:
    return 24 if isinstance(item, tuple) else 208


def moment_of(value: date | str) -> datetime:
    """A date, a time or its ISO text as a time in UTC, without zone."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def _seconds(value: date | str) -> float:
    return (moment_of(value) - datetime(1970, 1, 1)).total_seconds()


def is_unknown(value: object) -> bool:
    """Whether a value is None, NaN or NaT, which alone do not equal themselves."""
    return value is None or value != value
