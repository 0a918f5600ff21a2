"""What a plot of a front shows, before anything is drawn: which numbers stand against which, and every point.

* Quality stands against cost, because that is what a front trades. Where there is only one of the two, all pairs.
* A number that is required and not optimised has panels too, with its bar; the front is no staircase there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

from nas.objectives import Objective, Requirement
from nas.report.numbers import Scale, full_name, shown_objectives, spread, trained
from nas.study.rows import Row, StudyResult

MAX_PANELS = 9


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One panel: `x` against `y`; `x` is None where there is one objective alone, which stands against the trials."""

    x: Objective | None
    y: Objective
    has_staircase: bool


def pairs(objectives: Sequence[Objective], requirements: Sequence[Requirement]) -> tuple[Pair, ...]:
    """The panels, one row of costs for each quality."""
    shown = shown_objectives(objectives, requirements)
    if len(shown) == 1:
        return (Pair(x=None, y=shown[0], has_staircase=False),)
    quality = [o for o in shown if o.is_quality]
    cost = [o for o in shown if not o.is_quality]
    chosen = [(x, y) for y, x in product(quality, cost)] or [(x, y) for y, x in combinations(shown, 2)]
    return tuple(Pair(x=x, y=y, has_staircase=x in objectives and y in objectives) for x, y in chosen[:MAX_PANELS])


def columns(panels: Sequence[Pair]) -> int:
    """As many as there are costs beside the first quality, at most 3."""
    return max(1, min(3, sum(panel.y == panels[0].y for panel in panels)))


def value(row: Row, objective: Objective | None) -> float | None:
    """The number of a row on an axis; the trial's own where the axis has no objective."""
    if objective is None:
        return float(row.number)
    found = row.values.get(objective.name)
    return None if found is None else found.value


def error(row: Row, objective: Objective | None, result: StudyResult) -> tuple[float, float]:
    """Distances down and up: the percentiles of a measurement; of a score, its error or the seeds', if larger."""
    if objective is None or objective.name not in row.values:
        return 0.0, 0.0
    found = row.values[objective.name]
    if not objective.is_quality:
        return max(0.0, found.value - found.low), max(0.0, found.high - found.value)
    sd = next((floor.sd for floor in result.noise if floor.name == objective.name), 0.0)
    half = max(spread(found), sd)
    return half, half


def points(result: StudyResult, pair: Pair) -> list[tuple[Row, float, float]]:
    """Every trained row that has both numbers."""
    found = [(row, value(row, pair.x), value(row, pair.y)) for row in trained(result.rows)]
    return [(row, x, y) for row, x, y in found if x is not None and y is not None]


def staircase(
    coordinates: Sequence[tuple[float, float]], *, maximize_x: bool, maximize_y: bool
) -> list[tuple[float, float]]:
    """The corners, from the cheapest end on, of the line that bounds what these points dominate in two numbers."""
    sign_x, sign_y = (-1 if maximize_x else 1), (-1 if maximize_y else 1)
    kept: list[tuple[float, float]] = []
    for x, y in sorted(coordinates, key=lambda c: (sign_x * c[0], sign_y * c[1])):
        if not kept or sign_y * y < sign_y * kept[-1][1]:
            if kept:
                kept.append((x, kept[-1][1]))
            kept.append((x, y))
    return kept


def wide_range(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows these better: all above zero, the largest over eight times the smallest."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 8


def label_of(row: Row, *, on_front: bool) -> str:
    """What stands beside a point: the design's name for a reference, the trial's number for a member of the front."""
    if row.is_reference:
        return row.origin.removeprefix("reference: ")
    return f"#{row.number}" if on_front else ""


def axis_title(objective: Objective | None, scale: Scale) -> str:
    """`text loss [bits/byte], less is better`; `time per output token [ms] (estimate), less is better`."""
    if objective is None:
        return "trial"
    aim = "less is better" if objective.direction == "minimize" else "more is better"
    return f"{full_name(objective.name, scale)}, {aim}"
