"""Which members of a front do not owe their place to whose kernels were timed.

Our kernels differ in maturity, and a search exploits what is fast today. A member is robust when it is on the front
under our own kernels, under the fastest at hand and under the roofline.
"""

from collections.abc import Sequence
from dataclasses import replace

from nas.objectives import Objective
from nas.study.front import front_of
from nas.study.rows import Row

COST_MODELS = ("own", "best", "roofline")


def robust_members(rows: Sequence[Row], objectives: Sequence[Objective]) -> tuple[int, ...] | None:
    """Trial numbers that are on the front under all cost models; None where a trained row lacks one of them.

    Without a timed objective the models agree, and every member is robust.
    """
    complete = [row for row in rows if row.state == "complete"]
    if any(model not in row.costs for row in complete for model in COST_MODELS):
        return None
    fronts = [set(front_of([under(row, model) for row in complete], objectives)) for model in COST_MODELS]
    return tuple(number for number in front_of(complete, objectives) if all(number in front for front in fronts))


def under(row: Row, cost_model: str) -> Row:
    """The row with the times of a cost model in the place of its own."""
    times = {
        name: replace(row.values[name], value=milliseconds)
        for name, milliseconds in row.costs[cost_model].items()
        if name in row.values
    }
    return replace(row, values=row.values | times)
