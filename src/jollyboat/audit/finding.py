"""What the audit found."""

from dataclasses import dataclass

KEYS_KEPT = 200


@dataclass(frozen=True)
class Finding:
    """The result of one expectation on one table; `keys` identify rows that failed it."""

    table: str
    expectation: str
    severity: str
    passed: bool
    observed: str
    keys: list[dict]

    @property
    def stops(self) -> bool:
        return not self.passed and self.severity == "critical"
