"""What fresh seeds say of designs near a front: means with intervals, who is probably on it, what could not be seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.measurement import Measurement
from nas.objectives import OBJECTIVES, Objective, Requirement
from nas.study.confirmation.retrained import Plan, Retrained
from nas.study.front import front_of, meets
from nas.study.precision import able_in, known
from nas.study.rows import Row
from nas.study.statistics import (
    Estimate,
    detectable_difference,
    estimate,
    pooled_sd,
    rank_agreement,
    ranks,
    sampled,
    shares_on_front,
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One design. row: with the new scores. searched: the scores of the search, which are discarded, for comparison.

    tuned and fixed: by score, at the chosen rates and at the table's. on_front: how probable it is that no other of the
    designs is better. meets, on_required_front: the same of the requirements, and of the front among those that meet
    them; None without requirements.
    """

    row: Row
    result: Retrained
    searched: Mapping[str, Measurement]
    tuned: Mapping[str, Estimate]
    fixed: Mapping[str, Estimate]
    rank_tuned: Mapping[str, int]
    rank_fixed: Mapping[str, int]
    on_front: float
    meets: float | None
    on_required_front: float | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was judged, and by what.

    requirements: those that could be judged. designs: those that held, most probable members of the front first.
    broken: the rows of those that did not. front, front_required: trials on the front by confirmed numbers, without and
    with the requirements. sd: by score, within designs. detectable: the smallest difference between two designs that
    this number of seeds finds in 80 % of cases. agreement: Kendall's tau of the ranks at fixed and at tuned rates; None
    where either does not order the designs.
    """

    plan: Plan
    objectives: tuple[Objective, ...]
    requirements: tuple[Requirement, ...]
    designs: tuple[Judged, ...]
    broken: tuple[Row, ...]
    front: tuple[int, ...]
    front_required: tuple[int, ...]
    sd: Mapping[str, float]
    detectable: Mapping[str, float]
    agreement: Mapping[str, float | None]

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(self.detectable)


def judge(
    plan: Plan,
    rows: Sequence[Row],
    searched: Sequence[Row],
    results: Mapping[int, Retrained],
    objectives: Sequence[Objective],
    requirements: Sequence[Requirement],
    reference: Row | None,
) -> Judgement:
    """rows: with the new scores, and reference among them; searched: the same with the search's. results: by number.

    requirements: those that can be judged, so that relative ones have a reference that held.
    """
    held = [row for row in rows if row.state == "complete" and row.number in results]
    before = {row.number: row.values for row in searched}
    names = list(dict.fromkeys(name for row in held for name in results[row.number].tuned))
    tuned = {n: [estimates(results[row.number].tuned).get(n) for row in held] for n in names}
    fixed = {n: [estimates(results[row.number].fixed).get(n) for row in held] for n in names}
    on_front, meets_bars, on_required = probabilities(held, objectives, requirements, reference)
    rank_tuned = {n: ranks([as_loss(n, one) for one in tuned[n]]) for n in names}
    rank_fixed = {n: ranks([as_loss(n, one) for one in fixed[n]]) for n in names}
    designs = [
        Judged(
            row=row,
            result=results[row.number],
            searched={n: before[row.number][n] for n in names if n in before[row.number]},
            tuned={n: one for n in names if (one := tuned[n][i]) is not None},
            fixed={n: one for n in names if (one := fixed[n][i]) is not None},
            rank_tuned={n: rank_tuned[n][i] for n in names},
            rank_fixed={n: rank_fixed[n][i] for n in names},
            on_front=float(on_front[i]),
            meets=None if meets_bars is None else float(meets_bars[i]),
            on_required_front=None if on_required is None else float(on_required[i]),
        )
        for i, row in enumerate(held)
    ]
    sd = {n: pooled_sd([one for one in tuned[n] if one is not None]) for n in names}
    return Judgement(
        plan=plan,
        objectives=tuple(objectives),
        requirements=tuple(requirements),
        designs=tuple(sorted(designs, key=lambda one: (-(one.on_required_front or 0), -one.on_front, one.row.number))),
        broken=tuple(row for row in rows if row.state == "failed" and row.number in results),
        front=front_of(held, objectives),
        front_required=front_of([row for row in held if meets(row, requirements, reference)], objectives),
        sd=sd,
        detectable={n: detectable_difference(sd[n], len(plan.seeds)) for n in names},
        agreement={
            n: rank_agreement([as_loss(n, one) for one in fixed[n]], [as_loss(n, one) for one in tuned[n]])
            for n in names
        },
    )


def estimates(numbers: Mapping[str, Sequence[float]]) -> dict[str, Estimate]:
    """By score, of those with at least two seeds."""
    return {name: estimate(values) for name, values in numbers.items() if len(values) >= 2}


def as_loss(name: str, one: Estimate | None) -> float:
    """The mean with the sign that makes less better; what broke is worst."""
    if one is None:
        return math.inf
    return one.mean if OBJECTIVES[name].direction == "minimize" else -one.mean


def probabilities(
    rows: Sequence[Row], objectives: Sequence[Objective], requirements: Sequence[Requirement], reference: Row | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """[rows] each: on the front; meets the requirements; on the front among those that do. The latter None without any.

    From draws of what the true numbers may be: scores by their seeds, costs by the spread of their samples. A bar that
    is relative moves with the drawn number of the reference.
    """
    names = list(dict.fromkeys([*(o.name for o in objectives), *(r.name for r in requirements)]))
    draws = sampled([[known(name, row.values[name], {}) for name in names] for row in rows])
    signs = np.array([1.0 if OBJECTIVES[name].direction == "minimize" else -1.0 for name in names])
    drawn = (draws * signs)[:, :, [names.index(o.name) for o in objectives]]
    on_front = shares_on_front(drawn)
    if not requirements:
        return on_front, None, None
    able = able_in(draws, names, rows, requirements, reference)
    return on_front, able.mean(axis=0), shares_on_front(drawn, able)
