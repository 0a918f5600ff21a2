"""Bars: what a design must reach (requirements) and what it must not exceed (limits).

A *limit* is hard: it is checked at the end of the stage that gives the number, and the design goes no further. A
*requirement* is a bar for the front: a design below it is trained and kept, and the front is shown with and without.

A requirement on quality is relative to what the baseline (all-attention) reaches in the same run, because absolute
scores of small proxies mean nothing: `recall: 0.9` is nine tenths of its recall, `text_loss: 1.02` at most 1.02 times
its loss. All other bars are absolute, in the unit of the objective.
"""

import math
from dataclasses import dataclass

from nas.measurement import Measurement
from nas.objectives.base import Objective, ObjectiveError, with_unit


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """`objective` must reach `bound`: at most where less is better, at least where more is.

    relative_to_reference: the bound is a share of the number of the design that `baseline` names.
    """

    objective: Objective
    bound: float
    relative_to_reference: bool
    baseline: str = "all-attention"

    @property
    def name(self) -> str:
        return self.objective.name

    def level(self, reference: Measurement | None) -> float:
        """The bar in the objective's unit; `reference` is the baseline's number, if the bar is relative."""
        if not self.relative_to_reference:
            return self.bound
        if reference is None:
            raise ObjectiveError(
                f"require.{self.name} is a share of what {self.baseline} reaches, but that was not measured; "
                "let the reference designs run first, or drop the requirement."
            )
        return self.bound * reference.value

    def violation(self, measurement: Measurement, reference: Measurement | None = None) -> float:
        """By how much of the bar it is missed: 0.1 is a tenth; zero or less when it holds; infinite for a NaN."""
        level = self.level(reference)
        excess = measurement.value - level if self.objective.direction == "minimize" else level - measurement.value
        if math.isnan(excess):
            return math.inf
        missed = excess / abs(level) if level else excess
        # 0.9 of 0.8 is not 0.72 in binary: what equals the bar up to rounding reaches it.
        return 0.0 if abs(missed) < 1e-9 else missed

    def satisfied(self, measurement: Measurement, reference: Measurement | None = None) -> bool:
        return self.violation(measurement, reference) <= 0

    def __str__(self) -> str:
        relation = "at most" if self.objective.direction == "minimize" else "at least"
        if self.relative_to_reference:
            return f"{self.name} {relation} {self.bound:g} of what {self.baseline} reaches"
        return f"{self.name} {relation} {with_unit(self.bound, self.objective.unit, self.name)}"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A hard limit in the objective's unit: an upper one where less is better, a lower one where more is."""

    objective: Objective
    bound: float

    @property
    def name(self) -> str:
        return self.objective.name

    def broken_by(self, measurement: Measurement) -> str | None:
        """The reason for a rejection, such as `decode_latency_ms 61.2 ms is over the limit of 50 ms`; None if kept."""
        value = measurement.value
        if self.objective.direction == "minimize":
            holds, word = value <= self.bound, "over"
        else:
            holds, word = value >= self.bound, "under"
        if holds:
            return None
        unit = self.objective.unit
        found, limit = with_unit(value, unit, self.name), with_unit(self.bound, unit, self.name)
        return f"{self.name} {found} is {word} the limit of {limit}"
