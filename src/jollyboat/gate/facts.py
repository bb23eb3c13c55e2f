"""What the gate's checks read: `Facts` about one candidate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jollyboat.training.estimators import BASELINE
from jollyboat.training.targets import Target

Interval = Mapping[str, float | None]  # value, low, high


@dataclass(frozen=True)
class Facts:
    """Facts about the candidate. None means unknown; a check without its fact fails.

    All figures are those of the holdout. Intervals come from `evaluate.difference`, segments
    from `segments.by_segment`.
    """

    candidate: str
    champion: str | None  # its version; None: there is no champion yet
    rows: str = "sessions"  # what the holdout's rows are
    is_ranking: bool = False  # then only RANKING_CHECKS apply; positives are points
    measure: str = "average precision"  # that leads are of
    baseline: str = BASELINE
    positives: int | None = None
    negatives: int | None = None
    against_baseline: Interval | None = None
    against_champion: Interval | None = None
    is_newer: bool = False  # whether it has learned from later sessions than the champion
    rolled_back: str | None = None  # when, by whom and why this version was; "" if never
    champion_silence: str = ""  # why the champion cannot score this holdout
    segments: list[dict[str, Any]] | None = None
    champion_segments: list[dict[str, Any]] | None = None  # compared with the champion instead
    tenants: list[dict[str, Any]] | None = None  # each one's loss; see tenant_tail
    tenants_against: str = "baseline"  # or "champion": whom these losses are relative to
    calibration_error: float | None = None
    label_rate: float | None = None
    calibration_chance: float | None = None  # 95th percentile of a perfect model's error
    misbehaving: list[str] | None = None  # a sentence for each behavioural case that failed
    behaving: int = 0  # behavioural cases that passed
    skipped_cases: list[str] = field(default_factory=list)  # a sentence for each
    cases: list[Mapping[str, Any]] = field(default_factory=list)  # name, passed, figure, limit
    leaks: Mapping[str, Any] | None = None  # of jollyboat.training.leak
    roc_auc: float | None = None
    differing: Mapping[str, int] | None = None  # by feature: values that differ online
    smoke_passed: bool | None = None
    smoke_sentence: str = ""
    p99_ms: float | None = None
    memory_mb: float | None = None
    bundle_mb: float | None = None
    training_seconds: float | None = None
    targets: list[Target] | None = None  # those that gate; None if none does
