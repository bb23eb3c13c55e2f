"""The monitor's input, as frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from jollyboat.training.schema import FeatureSchema


@dataclass(frozen=True)
class Facts:
    """The monitor's input. Frames have `tenant_id` and `day`: 24 hours each, the newest is 0.

    - reference, live: features of sessions in training and since; reference_scores and live_scores
      have their `score`.
    - holdout, answers: event_count, probability, label (NaN: not known yet).
    - volumes: session_count by day; latency: p99_ms of answers by day.
    - arrivals: record_count and quarantined_count by `source` and its own day, without a tenant.
    """

    days: Sequence[int]  # the live days, oldest first
    schema: FeatureSchema
    reference: pd.DataFrame
    live: pd.DataFrame
    reference_scores: pd.DataFrame
    live_scores: pd.DataFrame
    holdout: pd.DataFrame
    answers: pd.DataFrame
    volumes: pd.DataFrame
    arrivals: pd.DataFrame
    latency: pd.DataFrame
    age_hours: float
    days_since_training: float
    last_arrival: str = ""  # of the newest event, as AS_OF takes it
    owners: Sequence[str] = ()  # tenants with a champion of their own
    rows: str = "sessions"  # what the question is about
