"""What a model must do whatever its figures are: the named cases of ml/behaviour/*.json.

- `invariance`: a `change` of held-out sessions moves the score by no more than `at_most`.
  The other side is the session unchanged, or changed by `against`.
- `rises`: a `change` lowers the score by no more than `at_most`.
- `minimum`: the score of the made-up events `better` is above that of `worse`. The events are
  twenty seconds apart, where they have no `occurred_at`; `point_at` is the time of asking.

A change may `rename` ids, `set` or `multiply` fields, `append` an event, `reverse` the order of
sending by time, or give pairs of events the `same_times`. Events of the same time keep their order.

The largest move is the figure. With `typical` it is the mean (`invariance`) or the 95th
percentile (`rises`), for of 200 sessions the 99th is that of two. A case `needs` values by column,
`{"event_type": ["cart_add"]}`; where the logs lack one of them, the case is skipped.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from jollyboat.bundles.features import EVENT_COLUMNS
from jollyboat.store import PROJECT, UserError, suggest
from jollyboat.store.settings import FIRST

Session = tuple  # tenant_id, entity_id, events so far, and the time of asking if there is one
Predict = Callable[[list[Session]], Sequence[float]]
KINDS = ("invariance", "rises", "minimum")
FIELDS = (
    *("name", "kind", "at_most", "needs", "typical", "change", "against"),
    *("better", "worse", "point_at"),
)
CHANGES = ("rename", "set", "multiply", "append", "reverse", "same_times")
START, GAP = datetime(2026, 1, 5, 10, 0), timedelta(seconds=20)


@dataclass(frozen=True)
class Verdict:
    """The result of a case: its figure beside its limit, and both in a sentence.

    A skipped case has no figure and counts as passed.
    """

    name: str
    passed: bool
    figure: float | None
    limit: float
    sentence: str

    @property
    def is_skipped(self) -> bool:
        """Whether the logs lack what the case needs."""
        return self.figure is None


def cases_of(question: str) -> Path:
    """The file of a question's cases; "" is the first question."""
    return PROJECT / "ml" / "behaviour" / f"{question or FIRST}.json"


def read_cases(path: Path) -> list[dict[str, Any]]:
    """The cases of the file, none without it; UserError for a case without its fields."""
    if not path.exists():
        return []
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}. Fix that place.") from error
    for case in cases:
        if not {"name", "at_most"} <= set(case) or case.get("kind") not in KINDS:
            raise UserError(
                f"A case of {path} needs a name, at_most, and a kind ({', '.join(KINDS)}): {case}"
            )
        _refuse_misspelt(case, path)
        needs = case.get("needs", {})
        if not (isinstance(needs, dict) and all(isinstance(each, list) for each in needs.values())):
            raise UserError(
                f"The needs of case {case['name']} in {path} are {json.dumps(needs)}. Write the "
                'values by column: {"event_type": ["cart_add"]}.'
            )
    return cases


def _refuse_misspelt(case: Mapping[str, Any], path: Path) -> None:
    """UserError for a field of a case, or a column in it, that changes nothing."""
    changes = [case.get(name, {}) for name in ("change", "against")]
    events = [event for name in ("better", "worse") for event in case.get(name, [])]
    parts = ("rename", "set", "multiply", "append")
    columns = [name for change in changes for part in parts for name in change.get(part, ())]
    columns += [name for event in events for name in event]
    fields = [(name, FIELDS) for name in case]
    fields += [(name, CHANGES) for change in changes for name in change]
    fields += [(name, EVENT_COLUMNS) for name in columns]
    for name, names in fields:
        if name not in names:
            hint = suggest(name, names) or f" It may be one of {', '.join(names)}."
            raise UserError(
                f"Case {case['name']} of {path} has {name!r}, which nothing reads.{hint}"
            )


def judge(
    cases: Iterable[Mapping[str, Any]],
    predict: Predict,
    sessions: Sequence[Session],
    values: Callable[[str], Collection[str]],
) -> list[Verdict]:
    """A verdict on each case over these held-out sessions; `values` gives a column's values."""
    return [
        _skip(case, values)
        or (
            _judge_minimum(case, predict)
            if case["kind"] == "minimum"
            else _judge_change(case, predict, sessions)
        )
        for case in cases
    ]


def _skip(case: Mapping[str, Any], values: Callable[[str], Collection[str]]) -> Verdict | None:
    """The verdict on a case that needs what the logs lack; None if they have it all."""
    missing = [
        f"{column} {value!r}"
        for column, needed in case.get("needs", {}).items()
        for value in sorted(set(needed).difference(values(column) or ()))
    ]
    if not missing:
        return None
    name, limit = case["name"], float(case["at_most"])
    sentence = f"{name.replace('_', ' ')}: skipped, because no event has {' or '.join(missing)}."
    return Verdict(name, True, None, limit, sentence)


def _judge_minimum(case: Mapping[str, Any], predict: Predict) -> Verdict:
    at = [datetime.fromisoformat(case["point_at"])] if "point_at" in case else []
    pair = [("case", name, _spread_in_time(case[name]), *at) for name in ("better", "worse")]
    better, worse = predict(pair)
    finding = f"the better events score {better:.4f}, the worse ones {worse:.4f}"
    return _verdict(case, worse - better + 1e-12, finding)


def _judge_change(
    case: Mapping[str, Any], predict: Predict, sessions: Sequence[Session]
) -> Verdict:
    before = np.array(predict([_change(each, case.get("against", {})) for each in sessions]))
    after = np.array(predict([_change(each, case["change"]) for each in sessions]))
    is_rise = case["kind"] == "rises"
    moves = np.maximum(before - after, 0) if is_rise else np.abs(after - before)
    if not case.get("typical"):
        figure, statistic = moves.max(), "at most"
    elif is_rise:
        figure, statistic = np.quantile(moves, 0.95), "95 of 100 at most"
    else:
        figure, statistic = moves.mean(), "on average"
    worst = int(moves.argmax())
    tenant, entity, *_ = sessions[worst]
    finding = (
        f"scores are {statistic} {figure:.4f} {'lower' if is_rise else 'apart'}; the largest move "
        f"is in {entity} of {tenant}, from {before[worst]:.4f} to {after[worst]:.4f}"
    )
    return _verdict(case, float(figure), finding)


def _verdict(case: Mapping[str, Any], figure: float, finding: str) -> Verdict:
    name, limit = case["name"], float(case["at_most"])
    sentence = f"{name.replace('_', ' ')}: {finding}; the limit is {limit:g}."
    return Verdict(name, bool(figure <= limit), float(figure), limit, sentence)


def _spread_in_time(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Made-up events of one visitor, twenty seconds apart."""
    return [
        {"event_id": f"e{place}", "anonymous_id": "a", "occurred_at": START + place * GAP, **event}
        for place, event in enumerate(events)
    ]


def _change(session: Session, change: Mapping[str, Any]) -> Session:
    tenant, entity, events, *point_at = session
    changed = [_change_event(event, change) for event in events]
    if change.get("same_times"):
        for event, earlier in zip(changed[1::2], changed[::2], strict=False):
            event["occurred_at"] = earlier["occurred_at"]
    if "append" in change:
        last = changed[-1]
        later = {"event_id": f"{last['event_id']}+", "occurred_at": last["occurred_at"] + GAP}
        changed.append({**last, **later, **change["append"]})
    if change.get("reverse"):
        changed.sort(key=itemgetter("occurred_at"), reverse=True)
    return tenant, entity, changed, *point_at


def _change_event(event: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    changed = {**event, **change.get("set", {})}
    for name in change.get("rename", ()):
        if _has_value(changed, name):
            changed[name] = f"x{changed[name]}"
    for name, factor in change.get("multiply", {}).items():
        if _has_value(changed, name):
            changed[name] = float(changed[name]) * factor
    return changed


def _has_value(event: Mapping[str, Any], name: str) -> bool:
    value = event.get(name)
    return value is not None and value == value  # NaN is not equal to itself
