"""Dominance, fronts and hypervolume on plain arrays. Rows and Optuna are known elsewhere.

Every function takes losses: one row a design, one column an objective, smaller is better. `losses` makes them.
"""

from collections.abc import Sequence

import numpy as np

from nas.measurement import Measurement
from nas.objectives import Objective, Requirement
from nas.study.rows import Row


def losses(rows: Sequence[Row], objectives: Sequence[Objective]) -> np.ndarray:
    """[rows, objectives]: the values with the sign of those to be maximised turned."""
    signs = np.array([1.0 if o.direction == "minimize" else -1.0 for o in objectives])
    values = [[row.values[o.name].value for o in objectives] for row in rows]
    return np.array(values, dtype=float).reshape(len(rows), len(objectives)) * signs


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Indices of the rows that no other row dominates; of equal rows the first."""
    keep = []
    for i, candidate in enumerate(values):
        no_worse = np.all(values <= candidate, axis=1)
        better = np.any(values < candidate, axis=1)
        equal_before = np.all(values[:i] == candidate, axis=1)
        if not np.any(no_worse & better) and not np.any(equal_before):
            keep.append(i)
    return np.array(keep, dtype=int)


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by the rows and bounded by `reference`, by slicing along the last objective.

    Fonseca, Paquete and López-Ibáñez, "An improved dimension-sweep algorithm for the hypervolume indicator" (2006),
    without its bookkeeping: fronts here have tens of rows.
    """
    inside = values[np.all(values < reference, axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside[:, 0].min())
    order = np.argsort(inside[:, -1], kind="stable")
    inside = inside[order]
    edges = np.append(inside[:, -1], reference[-1])
    return sum(
        float(edges[i + 1] - edges[i]) * hypervolume(inside[: i + 1, :-1], reference[:-1])
        for i in range(len(inside))
        if edges[i + 1] > edges[i]
    )


def front_of(rows: Sequence[Row], objectives: Sequence[Objective]) -> tuple[int, ...]:
    """Trial numbers of the complete rows that no other dominates, in order of the first objective."""
    complete = [row for row in rows if row.state == "complete"]
    if not complete:
        return ()
    values = losses(complete, objectives)
    members = sorted(non_dominated(values), key=lambda i: tuple(values[i]))
    return tuple(complete[i].number for i in members)


def meets(row: Row, requirements: Sequence[Requirement], reference: Row | None) -> bool:
    """Whether a complete row meets every requirement; relative ones against the reference's numbers."""
    return all(r.satisfied(row.values[r.name], reference_value(r, reference)) for r in requirements)


def reference_value(requirement: Requirement, reference: Row | None) -> Measurement | None:
    """The reference's number that a requirement is relative to, or None."""
    return None if reference is None else reference.values.get(requirement.name)


def ranks(values: np.ndarray) -> np.ndarray:
    """For each row the number of fronts that must be taken away before it is on one; 0 for the front itself."""
    no_worse = np.all(values[:, None] <= values, axis=2)
    dominates = no_worse & ~no_worse.T  # of two rows, if each is no worse than the other, they are equal
    rank = np.full(len(values), -1)
    left, level = np.ones(len(values), dtype=bool), 0
    while left.any():
        front = left & ~dominates[left].any(axis=0)
        rank[front] = level
        left &= ~front
        level += 1
    return rank


def crowding(values: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Crowding distance of each row among those of its rank (Deb et al. 2002, section III-B); infinite at the ends."""
    distance = np.zeros(len(values))
    for level in set(rank.tolist()):
        rows = np.flatnonzero(rank == level)
        for column in values[rows].T:
            order = rows[np.argsort(column, kind="stable")]
            ordered = np.sort(column, kind="stable")
            span = ordered[-1] - ordered[0]
            distance[order[[0, -1]]] = np.inf
            if span > 0:
                distance[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
    return distance
