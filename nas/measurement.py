"""One number with its unit, its spread, how often it was taken and where it came from. Free of torch."""

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["measured", "table", "estimate", "counted", "scored", "confirmed"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """`value` is the median (or the mean of a score), `low` and `high` its 20th and 80th percentile (or ± one standard
    error), `n` the number of samples. A counted number has low == high == value and n == 1.

    source: `measured` on the whole network, `table` (predicted from measured blocks), `estimate` (a bound from a
    described device), `counted`, `scored` by a task, or `confirmed` (the mean of the scores of `n` fresh seeds, plus
    and minus one standard error). notes: what a reader must know, such as why sampling stopped, that the device was
    busy, or how far the number depends on what random weights cannot show.
    """

    value: float
    unit: str
    low: float
    high: float
    n: int
    source: Source = "measured"
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "source": self.source,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Measurement":
        return cls(**{**data, "notes": tuple(data.get("notes", ()))})

    @classmethod
    def exact(cls, value: float, unit: str) -> "Measurement":
        """A counted number."""
        return cls(value=value, unit=unit, low=value, high=value, n=1, source="counted")
