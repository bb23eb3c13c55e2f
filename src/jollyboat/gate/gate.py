"""Whether a candidate may serve. A check without a figure or without a limit fails."""

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from operator import ge, gt, le
from pathlib import Path
from typing import Any

from jollyboat.gate.checks import CHECKS, RANKING_CHECKS, LibraryCheck, behaves, meets_targets
from jollyboat.gate.facts import Facts
from jollyboat.store import PROJECT, UserError
from jollyboat.training.leak import LEAK

__all__ = ["Check", "Decision", "Facts", "decide"]
OWN_CHECKS = Path("ml") / "gate_checks.py"
PREFIX = "check_"
BOUNDS = {ge: "at least", gt: "above", le: "at most"}


@dataclass(frozen=True)
class Check:
    """The result of one check; `sentence` has the figure and, if it failed, the remedy.

    `warns` is true for a check that passed with a possible leak; `applies` is false for one that
    passed because there is nothing to judge, such as no champion yet. `bound` says on which side of
    the limit the figure must be, `interval` is what the figure is an end of, and `comparison` says
    what was compared with what. `cases` has each behavioural case.
    """

    name: str
    passed: bool
    figure: float | None
    limit: float | None
    sentence: str
    warns: bool = False
    applies: bool = True
    unit: str = ""
    bound: str = ""
    comparison: str = ""
    interval: Mapping[str, float | None] = field(default_factory=dict)
    cases: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Decision:
    """The results of all checks; passed if each of them did."""

    passed: bool
    checks: list[Check]

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain values, for JSON."""
        return asdict(self)


def decide(facts: Facts, limits: Mapping[str, float], project: Path = PROJECT) -> Decision:
    """The decision on a candidate: the library's checks, then those of ml/gate_checks.py.

    `limits` is the section [gate] of project.toml. Raises UserError if ml/gate_checks.py cannot
    be imported.
    """
    library = RANKING_CHECKS if facts.is_ranking else CHECKS
    if facts.targets is None:
        library = [check for check in library if check.measure is not meets_targets]
    checks = [_run_library_check(check, facts, limits) for check in library]
    own = _read_own_checks(project / OWN_CHECKS)
    checks += [_run_own_check(name, function, facts) for name, function in own.items()]
    return Decision(all(check.passed for check in checks), checks)


def _run_library_check(check: LibraryCheck, facts: Facts, limits: Mapping[str, float]) -> Check:
    measured = check.measure(facts, limits)
    figure, limit, sentence = measured.figure, measured.limit, measured.sentence
    shown = {
        "applies": measured.applies,
        "unit": measured.unit or check.unit,
        "bound": BOUNDS[measured.holds],
        "comparison": check.comparison.format_map(vars(facts)),
        "interval": dict(measured.interval),
        "cases": facts.cases if check.measure is behaves else [],
    }
    if limit is None:
        missing = "Its limit is missing under [gate] in project.toml: add it."
        return Check(check.name, False, figure, None, f"{sentence} {missing}", **shown)
    if figure is None or not math.isfinite(figure) or not math.isfinite(limit):
        words = check.name.replace("_", " ")
        default = f"There is no figure for {words}, so it fails: run `make train deploy` again."
        limit = limit if math.isfinite(limit) else None
        return Check(check.name, False, None, limit, measured.missing or default, **shown)
    passed = measured.holds(figure, limit)
    warns = passed and sentence.startswith(LEAK)
    sentence = sentence if passed else f"{sentence} {check.remedy}"
    return Check(check.name, passed, float(figure), float(limit), sentence, warns, **shown)


def _read_own_checks(path: Path) -> dict[str, Callable[[Facts], tuple]]:
    """The project's checks by name, in the order of the file."""
    if not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location("gate_checks", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the project's own code raises anything
        raise UserError(
            f"{path} cannot be imported ({error!r}): fix it, then run `make deploy`."
        ) from error
    functions = {
        name.removeprefix(PREFIX): function
        for name, function in vars(module).items()
        if name.startswith(PREFIX) and inspect.isfunction(function)
    }
    if taken := sorted(functions.keys() & {check.name for check in CHECKS}):
        raise UserError(
            f"{path} has {PREFIX}{taken[0]}, and the library has a check of that name: rename the "
            "function, then run `make deploy`."
        )
    return functions


def _run_own_check(name: str, function: Callable[[Facts], tuple], facts: Facts) -> Check:
    """The result of a project's check; one that raises or returns no numbers fails."""
    try:
        passed, figure, limit, sentence = function(facts)
        figure, limit = float(figure), float(limit)
    except Exception as error:  # the project's own code raises anything
        return _broken_check(name, f"did not return its four values ({error!r})")
    if not (math.isfinite(figure) and math.isfinite(limit)):
        return _broken_check(name, f"returned {figure} and {limit}, which are not both finite")
    return Check(name, bool(passed), figure, limit, str(sentence))


def _broken_check(name: str, problem: str) -> Check:
    remedy = f"Fix the function in {OWN_CHECKS.as_posix()}, then run `make deploy` again."
    return Check(name, False, None, None, f"{PREFIX}{name} {problem}, so it fails. {remedy}")
