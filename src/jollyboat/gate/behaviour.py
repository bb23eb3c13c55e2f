"""What a model must do whatever its figures are: the named cases of behaviour.json, each with its tolerance.

- `invariance`: a `change` of held-out sessions moves the score by no more than `at_most` (against them unchanged, or
  changed by `against`); `rises`: it lowers the score by no more; `minimum`: made-up events score `better` than `worse`.
- A change may `rename` ids, `set` or `multiply` fields, `append` an event, `reverse` the order of sending, or give
  events the `same_times`, so that only their ids tell their order.
- The largest move counts, or, where `typical`, what 99 of 100 stay below (of an invariance the mean). A case that
  `needs` event types that the logs lack is skipped.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from jollyboat.store import PROJECT
from jollyboat.store.errors import UserError

Session = tuple[str, str, Sequence[Mapping[str, Any]]]  # tenant_id, entity_id, events so far
CASES = PROJECT / "ml" / "behaviour" / "purchase_intent.json"
START, GAP = datetime(2026, 1, 5, 10, 0), timedelta(seconds=20)


@dataclass(frozen=True)
class Verdict:
    """What became of a case: its figure beside its limit, in a sentence too."""

    name: str
    passed: bool
    figure: float
    limit: float
    sentence: str


def read_cases(path: Path = CASES) -> list[dict[str, Any]]:
    """The cases of the file; raises UserError where one has no name, kind or tolerance."""
    cases = json.loads(path.read_text(encoding="utf-8"))
    for case in cases:
        if not {"name", "at_most"} <= set(case) or case.get("kind") not in (
            "invariance",
            "rises",
            "minimum",
        ):
            raise UserError(
                f"A case of {path} needs a name, at_most, and a kind (invariance, rises, minimum): {case}"
            )
    return cases


def judge(
    cases: Iterable[Mapping[str, Any]],
    predict: Callable[[list[Session]], Sequence[float]],
    sessions: Sequence[Session],
    event_types: Collection[str],
) -> list[Verdict]:
    """A verdict on each case that applies to logs of these event types, over these held-out sessions."""
    applying = [case for case in cases if set(case.get("needs", ())) <= set(event_types)]
    return [_judge_case(case, predict, sessions) for case in applying]


def _judge_case(case: Mapping[str, Any], predict: Callable, sessions: Sequence[Session]) -> Verdict:
    if case["kind"] == "minimum":
        asked = [("case", name, _spread(case[name])) for name in ("better", "worse")]
        better, worse = predict(asked)
        told = f"{better:.4f} where more than {worse:.4f} was expected"
        return _verdict(case, worse - better + 1e-12, told)
    before = np.array(predict([_change(each, case.get("against", {})) for each in sessions]))
    after = np.array(predict([_change(each, case["change"]) for each in sessions]))
    moved = np.maximum(before - after, 0) if case["kind"] == "rises" else np.abs(after - before)
    worst = int(moved.argmax())
    figure, of_whom = float(moved.max()), "at most"
    if case.get("typical") and case["kind"] == "rises":
        figure, of_whom = float(np.quantile(moved, 0.99)), "in 99 of 100 at most"
    elif case.get("typical"):
        figure, of_whom = float(moved.mean()), "on average"
    tenant, entity, _ = sessions[worst]
    told = (
        f"{of_whom} {figure:.4f} {'lower' if case['kind'] == 'rises' else 'apart'}, most in session {entity} of "
        f"{tenant} ({before[worst]:.4f} became {after[worst]:.4f})"
    )
    return _verdict(case, figure, told)


def _verdict(case: Mapping[str, Any], figure: float, told: str) -> Verdict:
    sentence = f"{case['name'].replace('_', ' ')}: {told}; allowed is {case['at_most']:g}."
    return Verdict(
        case["name"],
        bool(figure <= case["at_most"]),
        float(figure),
        float(case["at_most"]),
        sentence,
    )


def _spread(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Made-up events of one visitor, twenty seconds apart."""
    return [
        {"event_id": f"e{place}", "anonymous_id": "a", "occurred_at": START + place * GAP, **event}
        for place, event in enumerate(events)
    ]


def _change(session: Session, change: Mapping[str, Any]) -> Session:
    tenant, entity, events = session
    changed = [dict(event) for event in events]
    for event in changed:
        event.update(change.get("set", {}))
        for name in change.get("rename", ()):
            if event.get(name) == event.get(name) and event.get(name) is not None:
                event[name] = f"x{event[name]}"
        for name, factor in change.get("multiply", {}).items():
            if event.get(name) == event.get(name) and event.get(name) is not None:
                event[name] = float(event[name]) * factor
    if change.get("same_times"):
        for event, earlier in zip(changed[1::2], changed[::2], strict=False):
            event["occurred_at"] = earlier["occurred_at"]
    if "append" in change:
        last = changed[-1]
        later = {"event_id": f"{last['event_id']}+", "occurred_at": last["occurred_at"] + GAP}
        changed.append({**last, **later, **change["append"]})
    return tenant, entity, changed[::-1] if change.get("reverse") else changed
