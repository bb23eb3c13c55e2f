"""Targets that a team agreed on for a question, and whether figures meet them."""

from collections.abc import Mapping
from dataclasses import dataclass

from jollyboat.store.settings import Targets
from jollyboat.training.run import headline


@dataclass(frozen=True)
class Target:
    """One target; `is_most` if the figure should be at most the limit. None is unknown."""

    name: str
    limit: float
    figure: float | None
    is_most: bool

    @property
    def is_met(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure <= self.limit if self.is_most else self.figure >= self.limit


def judge_targets(targets: Targets, metrics: Mapping, p99_ms: float | None) -> list[Target]:
    """The targets that are set, each with its figure. `metrics` are those of the holdout."""

    def value(name: str) -> float | None:
        return metrics.get(name, {}).get("value")

    measure, quality = headline(metrics)
    figures = (
        ("quality", measure, quality["value"]),
        ("value_per_1000", "value per 1,000", value("expected_value_per_1000")),
        ("precision", "precision", value("precision")),
        ("recall", "recall", value("recall")),
        ("p99_ms", "ms for 99 % of the answers", p99_ms),
    )
    return [
        Target(name, limit, figure, is_most=setting == "p99_ms")
        for setting, name, figure in figures
        if (limit := getattr(targets, setting)) is not None
    ]
