"""How well a row's number is known, and which rows may belong to the front for all that is known.

A score that the search gave is one training's: seeds are its error, and the noise floor says how large that is. A
confirmed score is the mean of several. A measured cost has the spread of its samples, because a repeat on another day
differs by about as much; a counted number is exact.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nas.measurement import Measurement
from nas.objectives import OBJECTIVES, Objective, Requirement
from nas.study.front import front_of, losses, meets, reference_value
from nas.study.rows import NoiseFloor, Row
from nas.study.statistics import MIDDLE, Known, sampled

MARGIN = 2.0  # standard errors within which two numbers may be the same
ROUNDING = 1e-12  # by which a design misses a bar that its own number sets


def known(name: str, number: Measurement, floors: Mapping[str, NoiseFloor]) -> Known:
    """The number with its standard error. floors: by name, for scores of a single training."""
    half = (number.high - number.low) / 2
    if number.source == "confirmed":
        return Known(value=number.value, error=half, degrees=number.n - 1)
    if not OBJECTIVES[name].is_quality:
        return Known(value=number.value, error=2 * half / MIDDLE if number.source == "measured" else 0.0)
    floor = floors.get(name)
    if floor is not None and floor.sd > 0:
        return Known(value=number.value, error=floor.sd, degrees=len(floor.values) - 1)
    return Known(value=number.value, error=half)


def basis(name: str, number: Measurement, floors: Mapping[str, NoiseFloor]) -> str:
    """What the error of `known` rests on, in words."""
    if number.source == "confirmed":
        return f"{number.n} fresh seeds"
    if not OBJECTIVES[name].is_quality:
        return "spread of its samples" if number.source == "measured" else "taken as exact"
    floor = floors.get(name)
    if floor is not None and floor.sd > 0:
        return f"noise floor of {len(floor.values)} seeds"
    return "spread over the held-out data, seeds not known"


def near_front(
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    requirements: Sequence[Requirement],
    reference: Row | None,
    floors: Mapping[str, NoiseFloor],
) -> list[Row]:
    """The members of the front, with and without the requirements, and the trained rows within two standard errors.

    A row is left out when another beats it even after every number of it is made better by two standard errors of
    their difference. Where there are requirements, one that may meet them is also compared with those that do.
    """
    trained = [row for row in rows if row.state == "complete"]
    rivals = [trained]
    if requirements:
        rivals.append([row for row in trained if meets(row, requirements, reference)])
    kept = {number for group in rivals for number in front_of(group, objectives)}
    for row in trained:
        for group in rivals:
            if group is not trained and not may_meet(row, requirements, reference, floors):
                continue
            if not clearly_beaten(row, group, objectives, floors):
                kept.add(row.number)
    return [row for row in trained if row.number in kept]


def clearly_beaten(
    row: Row, rivals: Sequence[Row], objectives: Sequence[Objective], floors: Mapping[str, NoiseFloor]
) -> bool:
    """Whether a rival dominates the row made better by `MARGIN` standard errors of each difference."""
    others = [other for other in rivals if other.number != row.number]
    if not others:
        return False
    own = losses([row], objectives) - MARGIN * joint_errors(row, others, objectives, floors)
    theirs = losses(others, objectives)
    return bool((np.all(theirs <= own, axis=1) & np.any(theirs < own, axis=1)).any())


def joint_errors(
    row: Row, others: Sequence[Row], objectives: Sequence[Objective], floors: Mapping[str, NoiseFloor]
) -> np.ndarray:
    """[others, objectives]: standard errors of the differences between the row and each of the others."""
    own = [known(o.name, row.values[o.name], floors).error for o in objectives]
    return np.array(
        [
            [
                math.hypot(error, known(o.name, other.values[o.name], floors).error)
                for o, error in zip(objectives, own, strict=True)
            ]
            for other in others
        ]
    )


def may_meet(
    row: Row, requirements: Sequence[Requirement], reference: Row | None, floors: Mapping[str, NoiseFloor]
) -> bool:
    """Whether the row meets each requirement, or misses it by less than `MARGIN` standard errors of the distance."""
    for requirement in requirements:
        base = reference_value(requirement, reference)
        if requirement.satisfied(row.values[requirement.name], base):
            continue
        error = known(requirement.name, row.values[requirement.name], floors).error
        if requirement.relative_to_reference and base is not None:
            error = math.hypot(error, requirement.bound * known(requirement.name, base, floors).error)
        if abs(row.values[requirement.name].value - requirement.level(base)) >= MARGIN * error:
            return False
    return True


def able_in(
    draws: np.ndarray,
    names: Sequence[str],
    rows: Sequence[Row],
    requirements: Sequence[Requirement],
    reference: Row | None,
) -> np.ndarray:
    """[draws, rows]: which rows meet the requirements in which draw of what the true numbers may be.

    draws: [draws, rows, names] (`sampled`). A bar that is relative moves with the drawn number of the reference, which
    is one of the rows.
    """
    able = np.ones(draws.shape[:2], dtype=bool)
    for requirement in requirements:
        column = names.index(requirement.name)
        sign = 1.0 if requirement.objective.direction == "minimize" else -1.0
        level: np.ndarray | float = requirement.bound
        if requirement.relative_to_reference:
            assert reference is not None, "a relative bar is judged beside its baseline"
            base = [row.number for row in rows].index(reference.number)
            level = requirement.bound * draws[:, base : base + 1, column]
        able &= sign * (draws[:, :, column] - level) <= ROUNDING
    return able


def chances(
    rows: Sequence[Row],
    objective: Objective,
    requirements: Sequence[Requirement],
    reference: Row | None,
    floors: Mapping[str, NoiseFloor],
) -> tuple[np.ndarray, np.ndarray]:
    """[rows] each: how probable it is that a row meets the requirements, and that it is the best by the objective among
    all that do, for all that is known of the numbers. floors: see `known`.
    """
    outside = reference is not None and reference.number not in {row.number for row in rows}
    everybody = [*rows, reference] if reference is not None and outside else list(rows)
    names = list(dict.fromkeys([objective.name, *(requirement.name for requirement in requirements)]))
    known_rows = [[known(name, row.values[name], floors) for name in names] for row in everybody]
    draws = sampled(known_rows)
    able = able_in(draws, names, everybody, requirements, reference)[:, : len(rows)]
    sign = 1.0 if objective.direction == "minimize" else -1.0
    losses_drawn = np.where(able, sign * draws[:, : len(rows), 0], np.inf)
    first = losses_drawn.argmin(axis=1)
    won = np.bincount(first[able.any(axis=1)], minlength=len(rows)) / len(draws)
    return able.mean(axis=0), won
