"""The rows of a study with the costs of another deployment: another device, context or concurrency."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nas.architecture import Architecture
from nas.count import CannotMatch, count, deployed
from nas.deployment import Deployment
from nas.measure import DTYPES, DoesNotFit, Measured, NotInTable, dtype_of
from nas.objectives import OBJECTIVES
from nas.study.candidate import Candidate
from nas.study.rows import Row


def repriced(
    rows: Sequence[Row], deployment: Deployment, measure: Callable[[Architecture], Measured], say: Callable[[str], Any]
) -> list[Row]:
    """The trained rows that can be deployed so, their scores as they are, what is counted and measured taken anew.

    say: is told of every row that is left out, and why.
    """
    found = []
    for row in rows:
        if row.state != "complete":
            continue
        try:
            found.append(repriced_row(row, deployment, measure))
        except (CannotMatch, DoesNotFit, NotInTable) as error:
            say(f"trial {row.number} is left out: {error}")
    return found


def repriced_row(row: Row, deployment: Deployment, measure: Callable[[Architecture], Measured]) -> Row:
    """Raises CannotMatch, DoesNotFit or NotInTable for a row that cannot be deployed so."""
    large = deployed(row.architecture, deployment)
    candidate = Candidate(architecture=row.architecture, deployed=large)
    candidate.counts = count(large, deployment.workload.length, dtype=DTYPES[dtype_of(deployment)])
    measured = measure(large)
    scores = {name: value for name, value in row.values.items() if OBJECTIVES[name].stage == "train"}
    counted = {name: objective(candidate) for name, objective in OBJECTIVES.items() if objective.stage == "count"}
    costs = {model: {name: time.value for name, time in times.items()} for model, times in measured.costs.items()}
    return replace(row, deployed=large, values=scores | counted | measured.numbers, costs=costs)
