"""Scales for the charts of `templates/parts.html`: the place of a value, and the ticks.

A chart is a square of 100 by 100 that the page stretches; its texts are HTML, not stretched.
Its marks are the values to read by pointer and keyboard, and in the table behind the chart.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

MOST_MARKS, THINNED = 20, 11  # of a line, and of a longer one; each is a stop of the Tab key
STEPS_OF_DAYS = (1, 2, 7, 14, 28, 56, 91, 182, 365)


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with the values at `ticks` printed."""

    low: float
    high: float
    ticks: list
    to_number: Callable = float

    def place(self, value) -> float:
        """A value's place along the axis, from 0 to 100; values beyond an end are at the end."""
        share = (self.to_number(value) - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)


def axis(values: Iterable[float | None], most_ticks: int = 5) -> Axis:
    """An axis that has 0, from a round tick below all values to a round tick above them."""
    numbers = [0.0, *(float(value) for value in values if not is_unknown(value))]
    low, high = min(numbers), max(numbers)
    high = high if high > low else 1.0
    power = 10.0 ** math.floor(math.log10((high - low) / most_ticks))
    steps = [size * power for size in (1, 2, 2.5, 5, 10)]
    step = next(step for step in steps if step * most_ticks >= (high - low) * 0.9999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(step * place, 12) for place in range(first, last + 1)]
    return Axis(first * step, last * step, ticks)


def time_axis(moments: Iterable, most_ticks: int = 6) -> Axis:
    """An axis of whole days over all moments, with at most `most_ticks` dates as ticks."""
    days = [moment_of(value).date() for value in moments if not is_unknown(value)]
    days = days or [date(2000, 1, 1)]
    first, last = moment_of(min(days)), moment_of(max(days)) + timedelta(days=1)
    count = (last - first).days
    steps = (size for size in STEPS_OF_DAYS if size * most_ticks >= count)
    step = next(steps, math.ceil(count / most_ticks))
    ticks = [first + timedelta(days=place) for place in range(0, count, step)]
    return Axis(_seconds(first), _seconds(last), ticks, _seconds)


def trace(points: Iterable[Mapping], x_name: str, y_name: str, x: Axis, y: Axis) -> str:
    """The line through points, as the `d` of an SVG path, broken at unknown values."""
    parts, verb = [], "M"
    for point in points:
        if is_unknown(point[y_name]):
            verb = "M"
            continue
        parts.append(f"{verb}{x.place(point[x_name]):g} {y.place(point[y_name]):g}")
        verb = "L"
    return "".join(parts)


def dated(days: Iterable, values: Iterable) -> list[dict]:
    """The `value` of each `day`, as points of a line; what has no partner is left out."""
    return [{"day": day, "value": value} for day, value in zip(days, values, strict=False)]


@dataclass(frozen=True)
class Mark:
    """A value to read, at its place from the left and from the bottom; texts as on the axes."""

    left: float
    bottom: float
    name: str  # of its line
    x: str
    y: str


def marks(
    lines: Iterable[tuple[str, Iterable[Mapping]]],
    names: tuple[str, str],
    axes: tuple,
    forms: tuple,
) -> list[Mark]:
    """The known points of each line as marks, a line of more than MOST_MARKS evenly thinned.

    `lines` are names with their points. `names` are the keys of x and y in a point; `forms` write
    their values.
    """
    return [mark for name, points in lines for mark in _marks_of(name, points, names, axes, forms)]


def _marks_of(
    name: str, points: Iterable[Mapping], names: tuple[str, str], axes: tuple, forms: tuple
) -> list[Mark]:
    complete = [point for point in points if not any(is_unknown(point[key]) for key in names)]
    count = len(complete) if len(complete) <= MOST_MARKS else THINNED
    kept = [
        complete[round(place * (len(complete) - 1) / max(count - 1, 1))] for place in range(count)
    ]
    return [
        Mark(
            *(axis.place(point[key]) for axis, key in zip(axes, names, strict=True)),
            name,
            *(form(point[key]) for form, key in zip(forms, names, strict=True)),
        )
        for point in kept
    ]


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
    """Whether a value is None, NaN or NaT; the last two do not equal themselves."""
    return value is None or value != value
