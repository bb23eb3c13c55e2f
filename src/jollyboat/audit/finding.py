"""What the audit found."""

from dataclasses import dataclass

KEYS_KEPT = 200


@dataclass(frozen=True)
class Finding:
    """The result of one expectation on one table; `keys` identify rows that failed it.

    `tenants` has every tenant whose rows failed, with what was observed of it. It is None where
    the failure cannot be attributed to tenants.
    """

    table: str
    expectation: str
    severity: str
    passed: bool
    observed: str
    keys: list[dict]
    tenants: dict[str, str] | None = None

    @property
    def stops(self) -> bool:
        """Whether it stops the publication of its tenants' rows, or of all rows without tenants."""
        return not self.passed and self.severity == "critical"
