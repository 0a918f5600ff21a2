"""The noise floor: one architecture trained again on other seeds. Differences below it are none.

The repeats are not trials. They are stored in the study, so that a resumed run takes them up where it stopped. Where
training stops on rungs, the baseline is repeated on all of them once it is trained: what seeds do on a rung is part of
the margin there (nas/study/rungs.py).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.study.candidate import Candidate, CannotGoOn, Evaluator, describe
from nas.study.crew import Crew
from nas.study.events import Observer
from nas.study.rows import NoiseFloor, Row, Rung

REPEATS = "noise"
TRAINED_BY = "noise_by"  # the worker
Repeat = dict[str, Any]
"""id, seed, and either `failed`, why it broke, or `scores` and `rungs` as they are written."""


@dataclass(kw_only=True)
class Repeats:
    """Trains an architecture again on other seeds, as one worker of a study.

    seeds: how many, that of the architecture's row among them. now: the architecture and seed that are trained.
    """

    study: optuna.Study
    evaluator: Evaluator
    crew: Crew
    seeds: int
    now: tuple[str, int] | None = None

    def claim(self, row: Row, shares: Sequence[float]) -> bool:
        """Whether seeds of a row's architecture are missing that nobody trains; then this worker has to."""
        if not missing_seeds(self.study, row, self.seeds, shares):
            return False
        with self.crew.turn():
            free = self.study.user_attrs.get(TRAINED_BY) not in self.crew.others()
            if free:
                self.study.set_user_attr(TRAINED_BY, self.crew.me)
            return free

    def train(self, row: Row, observer: Observer, shares: Sequence[float] = (1.0,)) -> None:
        """What the study lacks of a row's architecture.

        shares: of the tokens, the rungs on which each is scored on its way; the last one is 1. A training that breaks
        leaves one seed out of the noise floor. Raises CannotGoOn.
        """
        for seed in missing_seeds(self.study, row, self.seeds, shares):
            observer.message(f"noise floor: {row.architecture.name} again on seed {seed}")
            self.now = row.id, seed
            candidate = Candidate(architecture=row.architecture, deployed=row.deployed or row.architecture)
            passed: list[Rung] = []
            try:
                for share in shares:
                    self.evaluator.train(candidate, seed, observer, share)
                    passed.append(Rung(share=share, scores=dict(candidate.scores)))
            except CannotGoOn:
                raise
            except Exception as error:
                observer.message(f"noise floor: seed {seed} is left out, its training failed ({describe(error)})")
                self._keep(failed=describe(error))
            else:
                scores = {name: m.to_dict() for name, m in candidate.scores.items()}
                self._keep(scores=scores, rungs=[rung.to_dict() for rung in passed])
            finally:
                self.now = None
            self.evaluator.let_go(row.id, ended=True)

    def give_up(self, reason: str) -> None:
        """What is trained now hangs, and would again; to be called in another thread."""
        if self.now is not None:
            self._keep(failed=reason)

    def _keep(self, **what: Any) -> None:
        assert self.now is not None, "something is trained"
        identity, seed = self.now
        others = [r for r in self.study.user_attrs.get(REPEATS, []) if (r["id"], r["seed"]) != self.now]
        self.study.set_user_attr(REPEATS, [*others, {"id": identity, "seed": seed, **what}])


def missing_seeds(study: optuna.Study, row: Row, seeds: int, shares: Sequence[float] = (1.0,)) -> list[int]:
    """The seeds of `row`'s architecture that are neither known, on all rungs if there are several, nor broken."""
    known = {
        repeat["seed"]
        for repeat in _repeats_of(study, row)
        if "failed" in repeat or {*shares} <= {1.0, *(rung["share"] for rung in repeat.get("rungs", ()))}
    }
    return [seed for seed in range(row.seed + 1, row.seed + seeds) if seed not in known]


def rung_noise(study: optuna.Study, row: Row | None) -> dict[float, dict[str, float]]:
    """By the share of the tokens, the standard deviation of each score of `row`'s architecture over the seeds that were
    scored there; nothing where there are fewer than two."""
    if row is None:
        return {}
    rungs = [*row.rungs, *(Rung.from_dict(r) for repeat in _repeats_of(study, row) for r in repeat.get("rungs", ()))]
    alike = {share: [rung.scores for rung in rungs if rung.share == share] for share in {rung.share for rung in rungs}}
    return {
        share: {name: statistics.stdev(one[name].value for one in scores) for name in scores[0]}
        for share, scores in sorted(alike.items())
        if len(scores) > 1
    }


def _repeats_of(study: optuna.Study, row: Row) -> list[Repeat]:
    return [repeat for repeat in study.user_attrs.get(REPEATS, []) if repeat["id"] == row.id]


def stored_floors(study: optuna.Study, row: Row | None, rows: Sequence[Row]) -> tuple[NoiseFloor, ...]:
    """The noise floors from what the study holds of `row`'s architecture; trains nothing."""
    if row is None:
        return ()
    own = {name: m for name, m in row.values.items() if OBJECTIVES[name].stage == "train"}
    stored = [repeat["scores"] for repeat in _repeats_of(study, row) if "scores" in repeat]
    return noise_floors([own, *({n: Measurement.from_dict(m) for n, m in scores.items()} for scores in stored)], rows)


def noise_floors(repeats: Sequence[Mapping[str, Measurement]], rows: Sequence[Row]) -> tuple[NoiseFloor, ...]:
    """For each score the values over seeds, their standard deviation, and that of the reference designs' values."""
    floors = []
    for name in repeats[0] if len(repeats) > 1 else ():
        values = tuple(r[name].value for r in repeats)
        designs = [row.values[name].value for row in rows if row.is_reference and row.state == "complete"]
        floors.append(
            NoiseFloor(
                name=name,
                unit=repeats[0][name].unit,
                values=values,
                sd=statistics.stdev(values),
                design_sd=statistics.stdev(designs) if len(designs) > 1 else None,
            )
        )
    return tuple(floors)
