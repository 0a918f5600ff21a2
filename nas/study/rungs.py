"""Training on rungs: which architectures go on, and what a budget of whole trainings pays for next.

Successive halving decided asynchronously (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020,
arXiv 1810.05934, algorithm 2), with two changes. Costs are exact before anything is trained, so that ranks over all
objectives would keep every cheap bad model: an architecture is compared by quality alone, with those that cost about as
much. And who is beaten by no more than the noise is not beaten: what held-out data leaves open of two scores, and what
other seeds make of the baseline on the same rung. A tenth goes on by lot, so that families which learn late are seen.

Pure functions of what the study holds: every worker that reads the same study decides the same.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

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

    taken: trials that already go on elsewhere. noise: by the share of the tokens and the name of the score, its
    standard deviation over seeds, where that is known.
    """

    fidelity: Fidelity
    qualities: Sequence[Objective]
    costs: Sequence[Objective]
    taken: Collection[int] = ()
    noise: Mapping[float, Mapping[str, float]] = field(default_factory=dict)

    def next_step(self, rows: Sequence[Row], able: Sequence[Row], left: float, *, new: bool) -> Step | None:
        """What to train with so much of the budget left: who has earned it, else a new architecture, else the best of
        those that wait, once a new one could not be brought to the top any more. None when nothing can be paid for.

        able: the rows that may go on at all. new: whether there are new architectures to be had.
        """
        last = self.fidelity.top
        waiting = [row for row in able if row.state == "stopped" and row.number not in self.taken]
        affordable = [row for row in waiting if self._cost(row) <= left + ROUNDING]
        standings = self.standings(affordable, rows)
        ranked = sorted(affordable, key=lambda row: (-self._rung(row), standings[row.number], row.number))
        opened = self._open_rungs(rows)
        for row in ranked:
            if self._goes_on(row, opened, standings[row.number]):
                return Step(cost=self._cost(row), row=row)
        start = self.fidelity.cost(0, 0)
        rest = self.fidelity.cost(1, last) if last else 0.0
        if new and start + rest <= left + ROUNDING:
            return Step(cost=start)
        return Step(cost=self._cost(ranked[0]), row=ranked[0]) if ranked else None

    def hopeless(self, rows: Sequence[Row], able: Sequence[Row]) -> list[Row]:
        """The stopped rows that are too far behind to go on, so that what they would go on from need not be kept.

        Should one of them go on after all, because all better ones are gone, it is trained from its beginning.
        """
        left = [row for row in rows if row.state == "stopped" and row.number not in self.taken]
        standings = self.standings(left, rows)
        numbers = {row.number for row in able}
        return [
            row
            for row in left
            if row.number not in numbers
            or (
                standings[row.number] >= MOST / self.fidelity.halving(self._rung(row))
                and not is_lucky(row.id, self._rung(row))
            )
        ]

    def goes_on(self, row: Row, rows: Sequence[Row]) -> bool:
        """Whether a stopped row has earned the next rung, or is lucky."""
        return self._goes_on(row, self._open_rungs(rows), self.standings([row], rows)[row.number])

    def _goes_on(self, row: Row, opened: Collection[int], standing: float) -> bool:
        rung = self._rung(row)
        return is_lucky(row.id, rung) or (rung in opened and standing < 1 / self.fidelity.halving(rung))

    def _open_rungs(self, rows: Sequence[Row]) -> set[int]:
        """The rungs that enough rows have reached and that not too many have left, so that the best may go on."""
        opened = set()
        for rung in range(self.fidelity.top):
            eta = self.fidelity.halving(rung)
            reached = [row for row in rows if len(row.rungs) > rung]
            promoted = sum(len(row.rungs) > rung + 1 or row.number in self.taken for row in reached)
            if len(reached) >= eta and promoted < MOST * len(reached) / eta:
                opened.add(rung)
        return opened

    def standings(self, wanted: Sequence[Row], rows: Sequence[Row]) -> dict[int, float]:
        """By number, the share of a row's neighbours, itself among them, that beat it by more than the noise on its
        last rung. Neighbours are those of most similar cost among the rows that reached that rung."""
        found: dict[int, float] = {}
        for rung in {self._rung(row) for row in wanted}:
            reached = [other for other in rows if len(other.rungs) > rung]
            number = max(2, math.ceil(GENERATIONS * self.fidelity.halving(rung)))
            seeds = self.noise.get(self.fidelity.shares[rung], {})
            standings = _Near.of(reached, rung, self.qualities, self.costs, seeds).standings(number)
            of_all = {row.number: float(standing) for row, standing in zip(reached, standings, strict=True)}
            found |= {row.number: of_all[row.number] for row in wanted if self._rung(row) == rung}
        return found

    def _rung(self, row: Row) -> int:
        return len(row.rungs) - 1

    def _cost(self, row: Row) -> float:
        return self.fidelity.cost(len(row.rungs), len(row.rungs))


def is_lucky(identity: str, rung: int) -> bool:
    """Whether an architecture goes on from a rung by lot, the same lot for every worker."""
    return hashlib.sha256(f"{identity} {rung}".encode()).digest()[0] * LUCKY < 256


@dataclass(frozen=True)
class _Near:
    """What one rung knows of the rows that reached it. places [rows, costs]: logarithms over their spread, no columns
    where there are no costs; losses and errors [rows, qualities]: of the scores there, with the standard error, of
    held-out data and of seeds."""

    places: np.ndarray
    losses: np.ndarray
    errors: np.ndarray

    @classmethod
    def of(
        cls,
        reached: Sequence[Row],
        rung: int,
        qualities: Sequence[Objective],
        costs: Sequence[Objective],
        seeds: Mapping[str, float],
    ) -> "_Near":
        places = np.array([[_log(row.values[o.name].value) for o in costs] for row in reached])
        places = places.reshape(len(reached), len(costs))
        spread = places.std(axis=0)
        scores = [[row.rungs[rung].scores[o.name] for o in qualities] for row in reached]
        signs = np.array([1.0 if o.direction == "minimize" else -1.0 for o in qualities])
        return cls(
            places=places / np.where(spread > 0, spread, 1.0),
            losses=signs * np.array([[score.value for score in row] for row in scores]),
            errors=np.hypot(
                [[(score.high - score.low) / 2 for score in row] for row in scores],
                [seeds.get(o.name, 0.0) for o in qualities],
            ),
        )

    def standings(self, number: int) -> np.ndarray:
        """For each row the share of the `number` nearest, itself among them, or of all where there are no costs, that
        beat it."""
        ahead = self.losses[:, None] - self.losses
        beaten = np.all(ahead > np.hypot(self.errors[:, None], self.errors), axis=2)
        np.fill_diagonal(beaten, False)
        if not self.places.shape[1]:
            return beaten.mean(axis=1)
        distance = np.linalg.norm(self.places[:, None] - self.places, axis=2)
        np.fill_diagonal(distance, -1.0)
        near = np.argsort(distance, axis=1, kind="stable")[:, :number]
        return np.take_along_axis(beaten, near, axis=1).mean(axis=1)


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))
