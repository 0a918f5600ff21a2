"""What a study optimises, requires and limits, and the fronts of its rows by that."""

from collections.abc import Sequence
from dataclasses import dataclass

from nas.objectives import Limit, Objective, Requirement
from nas.study.front import front_of, meets
from nas.study.rows import Row


@dataclass(frozen=True, kw_only=True)
class Bars:
    """What is optimised, required and limited, and the reference design that relative requirements refer to."""

    objectives: tuple[Objective, ...]
    requirements: tuple[Requirement, ...]
    limits: tuple[Limit, ...]
    reference: str

    def reference_row(self, rows: Sequence[Row]) -> Row | None:
        """The trained reference design, if it lies in the space and has been trained."""
        wanted = f"reference: {self.reference}"
        return next((r for r in rows if r.origin == wanted and r.state == "complete"), None)

    def applicable(self, rows: Sequence[Row]) -> tuple[Requirement, ...]:
        """The requirements that can be judged: relative ones need the reference."""
        known = self.reference_row(rows) is not None
        return tuple(r for r in self.requirements if known or not r.relative_to_reference)

    def fronts(self, rows: Sequence[Row]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Trial numbers of the front, and of the front among those that meet the requirements."""
        reference, requirements = self.reference_row(rows), self.applicable(rows)
        judged = len(requirements) == len(self.requirements)
        able = [r for r in rows if judged and r.state == "complete" and meets(r, requirements, reference)]
        return front_of(rows, self.objectives), front_of(able, self.objectives)

    def members(self, rows: Sequence[Row]) -> set[int]:
        """Trial numbers on either front."""
        front, required = self.fronts(rows)
        return {*front, *required}
