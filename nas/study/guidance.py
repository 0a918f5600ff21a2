"""What samplers are told of requirements and limits: before each proposal, and on each trial that ended."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.samplers import BaseSampler

from nas.architecture import Architecture
from nas.objectives import Limit, Requirement
from nas.study.candidate import Evaluator, Rejected
from nas.study.front import reference_value
from nas.study.rows import Row
from nas.study.samplers import Screened
from nas.study.samplers.exhaustive import Exhaustive

if TYPE_CHECKING:
    from nas.study.bars import Bars


def guide(sampler: BaseSampler, bars: "Bars", evaluator: Evaluator, rows: Sequence[Row]) -> None:
    """Tell a sampler, if it heeds such things, which limits are known by counting and how far rows miss the bars."""
    if isinstance(sampler, Screened | Exhaustive):
        limits = [limit for limit in bars.limits if limit.objective.stage == "count"]
        sampler.guide(
            admits=lambda architecture: keeps_limits(evaluator, limits, architecture),
            constraints=missed_by(rows, bars.requirements, bars.applicable(rows), bars.reference_row(rows)),
        )


def note_constraints(trial: optuna.Trial, row: Row, bars: "Bars", rows: Sequence[Row]) -> None:
    """Write on a row's trial by how much it misses each requirement; what was not trained to the end misses it."""
    reference = bars.reference_row(rows)
    for requirement in bars.applicable(rows):
        violation = 1.0
        if row.state == "complete":
            violation = requirement.violation(row.values[requirement.name], reference_value(requirement, reference))
        trial.set_constraint(requirement.name, violation)


def keeps_limits(evaluator: Evaluator, limits: Sequence[Limit], architecture: Architecture) -> bool:
    """Whether an architecture can be matched and deployed and keeps limits on what is counted; nothing is built.

    What else goes wrong is left for the trial to meet and record.
    """
    try:
        candidate = evaluator.admit(architecture)
        if limits:
            evaluator.count(candidate)
    except Rejected:
        return False
    except Exception:
        return True
    return all(limit.broken_by(limit.objective(candidate)) is None for limit in limits)


def missed_by(
    rows: Sequence[Row], requirements: Sequence[Requirement], judged: Sequence[Requirement], reference: Row | None
) -> dict[int, dict[str, float]]:
    """For each row by how much it misses each requirement, zero or less where it does not.

    Every row has every requirement, as samplers want it: one that cannot be judged yet counts as met, and one whose
    number is not known of the row as missed.
    """

    def miss(row: Row, requirement: Requirement) -> float:
        if requirement not in judged:
            return 0.0
        if requirement.name not in row.values:
            return 1.0
        return requirement.violation(row.values[requirement.name], reference_value(requirement, reference))

    return {row.number: {r.name: miss(row, r) for r in requirements} for row in rows}
