"""One measured number with its unit, its spread and how often it was taken. Free of torch: every room shares it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """`value` is the median (or the mean of a score), `low` and `high` its 20th and 80th percentile (or ± one standard
    error), `n` the number of samples. A counted number has low == high == value and n == 1."""

    value: float
    unit: str
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "unit": self.unit, "low": self.low, "high": self.high, "n": self.n}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Measurement":
        return cls(**data)

    @classmethod
    def exact(cls, value: float, unit: str) -> "Measurement":
        """A counted number."""
        return cls(value=value, unit=unit, low=value, high=value, n=1)
