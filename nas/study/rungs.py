"""Training on rungs: which architectures go on, and what a budget of whole trainings pays for next.

Successive halving decided asynchronously (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020,
arXiv 1810.05934, algorithm 2), with two changes. Costs are exact before anything is trained, so that ranks over all
objectives would keep every cheap bad model: an architecture is compared by quality alone, with those that cost about as
much. And who is beaten by no more than the noise is not beaten. A tenth goes on by lot, so that families which learn
late are seen.

Pure functions of rows: every worker that reads the same study decides the same.
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nas.measurement import Measurement
from nas.objectives import Objective
from nas.study.rows import Row

LUCKY = 10  # one of so many goes on whatever its scores
GENERATIONS = 2  # neighbours that an architecture is compared with, in units of those of which one goes on
MOST = 2.0  # of the share that should go on from a rung, before noise alone lets no more go on
ROUNDING = 1e-9


class RungsError(ValueError):
    """A schedule of rungs does not hold. The message is one sentence for a user."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """shares: of the token budget at which a training is judged, increasing; the last one is 1. decay: the share of
    each that is spent on the decay branch, which is thrown away when the training goes on."""

    shares: tuple[float, ...] = (1.0,)
    decay: float = 0.0

    def __post_init__(self) -> None:
        shares = self.shares
        numbers = all(isinstance(s, int | float) and not isinstance(s, bool) and 0 < s <= 1 for s in shares)
        if not shares or not numbers or shares[-1] != 1 or any(a >= b for a, b in pairwise(shares)):
            raise RungsError(
                f"fidelity.shares must rise from above 0 to 1 at the end, such as [0.0625, 0.25, 1], but got "
                f"{list(shares)}."
            )

    @property
    def top(self) -> int:
        return len(self.shares) - 1

    def cost(self, first: int, last: int) -> float:
        """What the rungs from `first` to `last` take after those before, in full trainings."""
        before = self.shares[first - 1] if first else 0.0
        return (1 - self.decay) * (self.shares[last] - before) + self.decay * sum(self.shares[first : last + 1])

    def halving(self, rung: int) -> float:
        """Of so many architectures on a rung one goes on."""
        return self.shares[rung + 1] / self.shares[rung]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to train next: the row that goes on, or a new architecture; and what it costs in full trainings."""

    cost: float
    row: Row | None = None


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Rows on rungs. qualities: the scores that are compared. costs: the objectives that say who is near whom.

    taken: trials that already go on elsewhere.
    """

    fidelity: Fidelity
    qualities: Sequence[Objective]
    costs: Sequence[Objective]
    taken: Collection[int] = ()

    def next_step(self, rows: Sequence[Row], able: Sequence[Row], left: float, *, new: bool) -> Step | None:
        """What to train with so much of the budget left: who has earned it, else a new architecture, else the best of
        those that wait, once a new one could not be brought to the top any more. None when nothing can be paid for.

        able: the rows that may go on at all. new: whether there are new architectures to be had.
        """
        last = self.fidelity.top
        waiting = [row for row in able if row.state == "stopped" and row.number not in self.taken]
        affordable = [row for row in waiting if self._cost(row) <= left + ROUNDING]
        ranked = sorted(affordable, key=lambda row: (-self._rung(row), self.standing(row, rows), row.number))
        for row in ranked:
            if self.goes_on(row, rows):
                return Step(cost=self._cost(row), row=row)
        start = self.fidelity.cost(0, 0)
        rest = self.fidelity.cost(1, last) if last else 0.0
        if new and start + rest <= left + ROUNDING:
            return Step(cost=start)
        return Step(cost=self._cost(ranked[0]), row=ranked[0]) if ranked else None

    def goes_on(self, row: Row, rows: Sequence[Row]) -> bool:
        """Whether a stopped row has earned the next rung, or is lucky."""
        rung = self._rung(row)
        eta = self.fidelity.halving(rung)
        reached = [other for other in rows if len(other.rungs) > rung]
        if is_lucky(row.id, rung):
            return True
        if len(reached) < eta:
            return False
        promoted = sum(len(other.rungs) > rung + 1 or other.number in self.taken for other in reached)
        crowded = promoted >= MOST * len(reached) / eta
        return not crowded and self.standing(row, rows) < 1 / eta

    def standing(self, row: Row, rows: Sequence[Row]) -> float:
        """The share of the neighbours, itself among them, that beat a row by more than the noise on its last rung."""
        rung = self._rung(row)
        near = self.neighbours(row, [other for other in rows if len(other.rungs) > rung], rung)
        return sum(self._beats(other, row, rung) for other in near) / len(near)

    def neighbours(self, row: Row, reached: Sequence[Row], rung: int) -> list[Row]:
        """Those of most similar cost among the rows that reached a rung, the row itself among them."""
        number = max(2, math.ceil(GENERATIONS * self.fidelity.halving(rung)))
        if not self.costs:
            return list(reached)
        places = np.array([[_log(other.values[o.name].value) for o in self.costs] for other in reached])
        spread = places.std(axis=0)
        places = places / np.where(spread > 0, spread, 1.0)
        own = next(i for i, other in enumerate(reached) if other.number == row.number)
        distance = np.linalg.norm(places - places[own], axis=1)
        distance[own] = -1.0
        return [reached[i] for i in np.argsort(distance, kind="stable")[:number]]

    def _beats(self, other: Row, row: Row, rung: int) -> bool:
        """Whether another is better in every quality, by more than the noise of the difference."""
        theirs, own = other.rungs[rung].scores, row.rungs[rung].scores
        return other.number != row.number and all(
            _loss(o, theirs[o.name]) < _loss(o, own[o.name]) - _noise(theirs[o.name], own[o.name])
            for o in self.qualities
        )

    def _rung(self, row: Row) -> int:
        return len(row.rungs) - 1

    def _cost(self, row: Row) -> float:
        return self.fidelity.cost(len(row.rungs), len(row.rungs))


def is_lucky(identity: str, rung: int) -> bool:
    """Whether an architecture goes on from a rung by lot, the same lot for every worker."""
    return hashlib.sha256(f"{identity} {rung}".encode()).digest()[0] * LUCKY < 256


def _loss(objective: Objective, score: Measurement) -> float:
    return score.value if objective.direction == "minimize" else -score.value


def _noise(one: Measurement, other: Measurement) -> float:
    """Standard error of the difference of two scores, as far as their held-out data tells."""
    return math.hypot((one.high - one.low) / 2, (other.high - other.low) / 2)


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))
