"""The result of one check of the monitor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

ALL = "all"
FINE, ALARM, UNKNOWN = "fine", "alarm", "cannot say yet"
Limits = Mapping[str, Any]
History = tuple[float | None, ...]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    `history` has its figure by live day, `alarm_days` the number of the newest days in a row on
    which that figure was beyond the limit, as it is now.
    """

    name: str
    tenant: str
    subject: str
    state: str
    value: float | None
    limit: float | None
    sentence: str
    history: History = ()
    alarm_days: int = 0
    since: str = ""  # the first of these days, as a time
    distribution: Sequence[Mapping[str, Any]] = ()  # of a drifted feature; see drift.Series

    @property
    def key(self) -> str:
        """The id of this check's incidents."""
        return f"{self.name}/{self.tenant}/{self.subject}"


def checked(
    name: str,
    tenant: str,
    subject: str,
    is_alarm: bool,
    value: float | None,
    limit: float,
    sentence: str,
    history: History = (),
) -> Check:
    """A check that is fine or an alarm."""
    if not is_alarm:
        return Check(name, tenant, subject, FINE, value, limit, sentence, history)
    is_over = value is not None and value > limit
    beyond = [each is not None and (each > limit) == is_over for each in reversed(history)]
    days = len(list(takewhile(bool, beyond)))
    return Check(name, tenant, subject, ALARM, value, limit, sentence, history, days)


def unknown(
    name: str, tenant: str, subject: str, limit: float | None, sentence: str, history: History = ()
) -> Check:
    """A check that cannot be made yet."""
    return Check(name, tenant, subject, UNKNOWN, None, limit, sentence, history)


def correct(p: np.ndarray, tenants: list[str]) -> np.ndarray:
    """The p-values of one check, corrected for the number of tenants; NaN is 1.

    The correction is Benjamini and Hochberg's (1995). All tenants together are a test of its own.
    """
    corrected = np.where(np.isfinite(p), p, 1.0)
    is_tenant = np.isfinite(p) & (np.array(tenants, dtype=object) != ALL)
    if is_tenant.any():
        corrected[is_tenant] = false_discovery_control(p[is_tenant])
    return corrected


def span(days: int) -> str:
    """A window in words."""
    return "24 hours" if days == 1 else f"{days} days"
