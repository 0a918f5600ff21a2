"""What a study trains next, and what its budget still pays for: decided from the storage alone, by whoever asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from nas.study.bars import Bars
from nas.study.front import meets
from nas.study.noise import rung_noise
from nas.study.rows import Row
from nas.study.rungs import ROUNDING, Fidelity, Ladder, Step
from nas.study.trials import ORIGIN, PROMOTED_FROM, SAMPLED, taken


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """trials: the budget, in full trainings. known: every row that was read, by the number of its trial, also those
    that others stand for. last: the answer to the last question."""

    study: optuna.Study
    bars: Bars
    fidelity: Fidelity
    trials: int
    known: Mapping[int, Row]
    last: dict[Any, Step | None] = field(default_factory=dict, repr=False)

    @property
    def spent(self) -> float:
        """Full trainings that are over, or what equals them."""
        return sum(row.trained for row in self.known.values())

    def next_step(self, rows: Sequence[Row], *, new: bool) -> Step | None:
        """What to train next with what is not spent; None when that pays for nothing, or nothing new is found.

        What is queued comes first. new: whether the sampler still finds something.
        """
        return self._next_step(rows, self.trials - self.spent, new=new)

    def room(self, rows: Sequence[Row], *, new: bool) -> Step | None:
        """The same with what the trials that run now leave over."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        left = self.trials - self.spent - sum(self._cost(trial.user_attrs) for trial in running)
        return self._next_step(rows, left, new=new)

    def _next_step(self, rows: Sequence[Row], left: float, *, new: bool) -> Step | None:
        queued = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if queued:
            cost = self._cost(queued[0].user_attrs)
            return Step(cost=cost) if cost <= left + ROUNDING else None
        ladder = self._ladder(rows)
        # Asked several times between two changes of the study, and slow once many rows wait on rungs.
        situation = (len(self.known), frozenset(ladder.taken), str(ladder.noise), round(left, 9), new)
        if situation not in self.last:
            self.last.clear()
            self.last[situation] = ladder.next_step(rows, self._able(rows), left, new=new)
        return self.last[situation]

    def hopeless(self, rows: Sequence[Row]) -> list[Row]:
        """The rows on a rung of which nothing need be kept that a longer training would go on from."""
        return self._ladder(rows).hopeless(rows, self._able(rows)) if self.fidelity.top else []

    def stay(self, attrs: Mapping[str, Any]) -> range:
        """The rungs that a trial trains: reference designs go to the top, others to the next rung."""
        before = self.known.get(attrs.get(PROMOTED_FROM, -1))
        first = 0 if before is None else len(before.rungs)
        is_reference = attrs.get(ORIGIN, SAMPLED).startswith("reference: ")
        return range(first, (self.fidelity.top if is_reference else first) + 1)

    def trained(self, attrs: Mapping[str, Any], rungs: int) -> float:
        """What so many rungs of a trial's stay took, in full trainings."""
        first = self.stay(attrs)[0]
        return self.fidelity.cost(first, first + rungs - 1)

    def _cost(self, attrs: Mapping[str, Any]) -> float:
        return self.trained(attrs, len(self.stay(attrs)))

    def _ladder(self, rows: Sequence[Row]) -> Ladder:
        judged = [*self.bars.objectives, *(r.objective for r in self.bars.requirements)]
        return Ladder(
            fidelity=self.fidelity,
            qualities=tuple(dict.fromkeys(o for o in judged if o.is_quality)),
            costs=[o for o in self.bars.objectives if not o.is_quality],
            taken=taken(self.study),
            noise=rung_noise(self.study, self.bars.reference_row(rows)) if self.fidelity.top else {},
        )

    def _able(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that meet what is required of counted and measured numbers."""
        reference = self.bars.reference_row(rows)
        requirements = [r for r in self.bars.applicable(rows) if r.objective.stage != "train"]
        return [row for row in rows if row.state == "stopped" and meets(row, requirements, reference)]
