"""One design for one purpose: which rows meet the bars, which of them is best, how sure that is, what would change it.

Pure functions on rows whose costs are those of the purpose (`nas.study.reprice`), so that nothing is measured here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.architecture import Architecture
from nas.objectives import Objective, Requirement
from nas.study.front import meets, reference_value
from nas.study.precision import chances, known
from nas.study.rows import NoiseFloor, Row

SURE = 2.0  # standard errors of a difference, below which it is said to be none


class NoRecommendation(ValueError):
    """No design meets the bars. The message says which bar excludes how many, and the nearest miss."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What another bar would give: at `bound` (as the requirement counts it) the best design is `row`."""

    requirement: Requirement
    bound: float
    row: Row


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """errors: how many standard errors `best` is ahead of `second`; None without a runner-up or a known spread.

    meets: how probable it is that `best` meets the bars, for all that is known of the numbers; wins, second_wins: that
    it, or `second`, is the best of all that do.
    """

    best: Row
    second: Row | None
    errors: float | None
    meets: float
    wins: float
    second_wins: float
    nearest: Row | None
    nearness: float
    tighter: tuple[Change, ...]
    looser: tuple[Change, ...]

    @property
    def is_sure(self) -> bool:
        return self.errors is not None and self.errors >= SURE


def recommend(
    rows: Sequence[Row],
    objective: Objective,
    requirements: Sequence[Requirement],
    reference: Row | None,
    floors: Mapping[str, NoiseFloor],
) -> Recommendation:
    """The best row by `objective` among those that meet the requirements.

    rows: trained ones. reference: the design that relative requirements refer to. floors: by name, for scores
    of a single training; other numbers bring their own spread. Raises NoRecommendation.
    """
    able = ranked([row for row in rows if meets(row, requirements, reference)], objective)
    if not able:
        raise NoRecommendation(why_none(rows, requirements, reference))
    best, second = able[0], able[1] if len(able) > 1 else None
    able_shares, won = chances(rows, objective, requirements, reference, floors)
    place = {row.number: i for i, row in enumerate(rows)}
    designs = [row for row in rows if row.is_reference]
    nearest = max(designs, key=lambda row: likeness(row.architecture, best.architecture), default=None)
    return Recommendation(
        best=best,
        second=second,
        errors=None if second is None else ahead(best, second, objective, floors),
        meets=float(able_shares[place[best.number]]),
        wins=float(won[place[best.number]]),
        second_wins=0.0 if second is None else float(won[place[second.number]]),
        nearest=nearest,
        nearness=0.0 if nearest is None else likeness(nearest.architecture, best.architecture),
        tighter=tuple(filter(None, (tightened(rows, objective, requirements, r, reference) for r in requirements))),
        looser=tuple(filter(None, (loosened(rows, objective, requirements, r, reference) for r in requirements))),
    )


def ranked(rows: Sequence[Row], objective: Objective) -> list[Row]:
    """The best first."""
    return sorted(rows, key=lambda row: loss(row, objective))


def loss(row: Row, objective: Objective) -> float:
    value = row.values[objective.name].value
    return value if objective.direction == "minimize" else -value


def ahead(best: Row, second: Row, objective: Objective, floors: Mapping[str, NoiseFloor]) -> float | None:
    """The difference of two rows in its standard errors; None where no error is known."""
    name = objective.name
    error = math.hypot(*(known(name, row.values[name], floors).error for row in (best, second)))
    return (loss(second, objective) - loss(best, objective)) / error if error else None


def bound_for(requirement: Requirement, row: Row, reference: Row | None) -> float:
    """The bar that a row just reaches, as the requirement counts it: a share where it is relative."""
    value = row.values[requirement.name].value
    known = reference_value(requirement, reference)
    return value / known.value if requirement.relative_to_reference and known is not None else value


def tightened(
    rows: Sequence[Row],
    objective: Objective,
    requirements: Sequence[Requirement],
    bar: Requirement,
    reference: Row | None,
) -> Change | None:
    """The bar beyond what the best design reaches, and the design that would then be best; None if none would."""
    able = ranked([row for row in rows if meets(row, requirements, reference)], objective)
    sign = 1.0 if bar.objective.direction == "minimize" else -1.0
    reached = sign * able[0].values[bar.name].value
    better = [row for row in able[1:] if sign * row.values[bar.name].value < reached]
    if not better:
        return None
    return Change(requirement=bar, bound=bound_for(bar, better[0], reference), row=better[0])


def loosened(
    rows: Sequence[Row],
    objective: Objective,
    requirements: Sequence[Requirement],
    bar: Requirement,
    reference: Row | None,
) -> Change | None:
    """The nearest bar that lets a better design in, and that design; None if this bar alone keeps none out."""
    best = ranked([row for row in rows if meets(row, requirements, reference)], objective)[0]
    others = [requirement for requirement in requirements if requirement is not bar]
    kept_out = [
        row
        for row in rows
        if meets(row, others, reference)
        and not meets(row, [bar], reference)
        and loss(row, objective) < loss(best, objective)
    ]
    if not kept_out:
        return None
    row = min(kept_out, key=lambda r: bar.violation(r.values[bar.name], reference_value(bar, reference)))
    return Change(requirement=bar, bound=bound_for(bar, row, reference), row=row)


def why_none(rows: Sequence[Row], requirements: Sequence[Requirement], reference: Row | None) -> str:
    """Which bar excludes how many, and the row that misses all of them together by the least."""

    def missed(row: Row) -> float:
        return sum(max(0.0, r.violation(row.values[r.name], reference_value(r, reference))) for r in requirements)

    excluded = ", ".join(
        f"{requirement} excludes {sum(not meets(row, [requirement], reference) for row in rows)}"
        for requirement in requirements
    )
    nearest = min(rows, key=missed)
    reached = ", ".join(f"{r.name} {nearest.values[r.name].value:.4g} {r.objective.unit}" for r in requirements)
    return (
        f"None of the {len(rows)} trained designs meets the bars: {excluded}; trial {nearest.number} comes nearest "
        f"({reached}), so loosen a bar or search on."
    )


def likeness(a: Architecture, b: Architecture) -> float:
    """The share of layers that have the same kind of mixer and of FFN, both stretched to the same depth."""
    depth = math.lcm(len(a.blocks), len(b.blocks))
    pairs = [(a.blocks[i * len(a.blocks) // depth], b.blocks[i * len(b.blocks) // depth]) for i in range(depth)]
    same = sum((x.mixer.kind == y.mixer.kind) + (x.ffn.kind == y.ffn.kind) for x, y in pairs)
    return same / (2 * depth)
