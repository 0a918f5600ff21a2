"""The run loop: asks for architectures until the budget is trained, and records what became of each.

* Any number of workers run it on one study. What they decide rests on the storage alone, and what only one may decide
  (whether the budget allows another trial, whether an architecture is new, which files stay) is decided in turn.
* `trials` is a total of training, over all workers and runs of the study: the number of architectures trained to the
  full budget, or what equals them in shares of it where training stops on rungs (nas/study/rungs.py).
* An architecture already seen, in canonical form, is never trained again.
* A failure is recorded with its reason and the search goes on; if the first five trials all fail, it stops.
* A sampler that keeps proposing what is known gives way to random sampling until something new is found.
* Ctrl-C leaves the current trial as interrupted; the next run takes it up again.

What is trained next stands in nas/study/allowance.py, what a front leaves on disk in nas/study/front_files.py.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from nas.architecture import Architecture, canonical_id
from nas.objectives import OBJECTIVES, STAGES
from nas.study.allowance import Allowance
from nas.study.bars import Bars
from nas.study.candidate import Candidate, CannotGoOn, Evaluator, Rejected, describe, known_values
from nas.study.confirmation.costs import confirm_members, confirmed_rows
from nas.study.crew import Crew
from nas.study.errors import StudyError
from nas.study.events import Observer
from nas.study.front_files import FrontFiles
from nas.study.fruitless import Fruitless
from nas.study.guidance import guide, note_constraints
from nas.study.noise import Repeats
from nas.study.rows import Row, Rung, State, standing_rows
from nas.study.rungs import ROUNDING, Fidelity, Step
from nas.study.trials import (
    INTERRUPTED,
    PROMOTED_FROM,
    PROXY,
    REASON,
    ROW,
    TakenAway,
    end_hung,
    go_on,
    is_final,
    note_row,
    note_start,
    read_row,
    tell_row,
)

FAILURES_THAT_STOP = 5
WAIT_SECONDS = 1.0  # between two looks at whether others have left something to do
HANGS = "this worker ends, because what hangs in it cannot be stopped otherwise"
EXPLORER_SEED = 1_000_003  # apart from the seeds of the samplers, whose stream it must not repeat


@dataclass(kw_only=True)
class Loop:
    """One run of a study; `run` returns when `trials` architectures are trained or nothing new can be sampled.

    noise_seeds: on how many seeds the baseline is trained where training stops on rungs, its own among them.
    """

    study: optuna.Study
    crew: Crew
    space: Callable[[Any], Architecture]
    evaluator: Evaluator
    bars: Bars
    observer: Observer
    directory: Path
    trials: int
    seed: int
    patience: int
    fidelity: Fidelity = Fidelity()
    noise_seeds: int = 1
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self.rows: list[Row] = []
        self._read: dict[int, Row] = {}
        self.refresh()
        self.rows_before = {row.number for row in self.rows}
        self.work_seconds = 0.0
        self.sampler = self.study.sampler
        self.fruitless = Fruitless(sampler=self.sampler, patience=self.patience)
        self.explorer = RandomSampler(seed=EXPLORER_SEED + self.seed + len(self.rows))
        self.current: int | None = None
        self.repeats = Repeats(study=self.study, evaluator=self.evaluator, crew=self.crew, seeds=self.noise_seeds)
        self.allowance = Allowance(
            study=self.study, bars=self.bars, fidelity=self.fidelity, trials=self.trials, known=self._read
        )
        folder = self.directory / "architectures"
        folder.mkdir(parents=True, exist_ok=True)
        self.files = FrontFiles(folder=folder, evaluator=self.evaluator, say=lambda text: self.observer.message(text))

    @property
    def done(self) -> int:
        """Full trainings that are over, or what equals them."""
        return math.floor(self.spent + ROUNDING)

    @property
    def spent(self) -> float:
        return self.allowance.spent

    def refresh(self) -> None:
        """Read the rows that this and other workers have finished; `rows` stays the same list."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number not in self._read:
                row = read_row(trial)
                if row is not None:
                    self._read[trial.number] = row
        self.rows[:] = confirmed_rows(self.study, standing_rows(self._read.values(), INTERRUPTED))

    def run(self) -> None:
        """Walk the ladder with one architecture after another. Raises StudyError when the search cannot go on."""
        self._repeat_on_rungs()
        # Who ends leaves nothing behind that somebody was killed with.
        while self.allowance.next_step(self.rows, new=not self.fruitless.over) or self._take_up():
            self._take_up()
            trial = self._ask()
            if trial is None:
                time.sleep(WAIT_SECONDS)
                self.refresh()
            else:
                self._run(trial)
                self._repeat_on_rungs()
                self._check_failures()
        if self.fruitless.over and self.done < self.trials:
            self._explain_exhaustion()

    def _take_up(self) -> int:
        """Queue what workers that are gone have left; returns how many trials."""
        count = self.crew.requeue()
        if count:
            self.observer.message(f"{count} interrupted trials, of workers that are gone, are taken up again")
        return count

    def _repeat_on_rungs(self) -> None:
        """Once the baseline is trained, one worker sees what other seeds do to it on every rung, by which others are
        judged from then on."""
        row = self.bars.reference_row(self.rows)
        if row is None or not self.fidelity.top or not self.repeats.claim(row, self.fidelity.shares):
            return
        try:
            self.repeat(row, self.fidelity.shares)
        except CannotGoOn as error:
            raise StudyError(str(error)) from None

    def repeat(self, row: Row, shares: Sequence[float] = (1.0,)) -> None:
        """Train a row's architecture on the seeds of the noise floor. Raises CannotGoOn."""
        start = self.clock()
        try:
            self.repeats.train(row, self.observer, shares)
        finally:
            self.work_seconds += self.clock() - start

    def confirm(self) -> None:
        """Measure members of the front whose costs were predicted; for the last worker. Raises StudyError."""
        start = self.clock()
        self.refresh()
        try:
            count = confirm_members(self.study, self.evaluator, self.rows, self.bars.members, self.observer)
        except CannotGoOn as error:
            raise StudyError(str(error)) from None
        if count:
            self.files.write(self.rows, self.bars.members(self.rows))
        self.work_seconds += self.clock() - start

    def give_up(self, reason: str) -> None:
        """End this process, in which something hangs, and its trial as failed. To be called in another thread."""
        if self.current is not None:
            end_hung(self.study, self.current, reason)
            self.observer.message(f"trial {self.current} failed: {reason}")
        self.repeats.give_up(reason)
        self.observer.message(f"{HANGS}; every finished trial is kept, and the same command goes on")
        self.crew.leave()
        sys.stdout.flush()
        os._exit(1)

    def _check_failures(self) -> None:
        """Raise StudyError when nothing but failures came out so far."""
        failed = [row for row in self.rows if row.number not in self.rows_before and row.state == "failed"]
        if self.spent == 0 and len(failed) >= FAILURES_THAT_STOP:
            raise StudyError(
                f"The first {len(failed)} trials all failed, so the search stops; the last reason: {failed[-1].reason}"
            )

    def _ask(self) -> optuna.Trial | None:
        """A trial of this worker, or None while the trials that run elsewhere may use up the budget."""
        if self._room() is None:  # waiting takes no turns, which are written down
            return None
        with self.crew.turn():
            step = self._room()
            if step is None:
                return None
            if step.row is not None:
                go_on(self.study, step.row)
            self.study.sampler = self.explorer if self.fruitless.stuck else self.sampler
            guide(self.sampler, self.bars, self.evaluator, self.rows)
            trial = self.study.ask()
            self.crew.claim(trial)
            return trial

    def _room(self) -> Step | None:
        self.refresh()
        return self.allowance.room(self.rows, new=not self.fruitless.over)

    def _run(self, trial: optuna.Trial) -> None:
        """One trial to its end: its row is stored, and Optuna is told."""
        self.current = trial.number
        try:
            self._walk(trial)
        except TakenAway as lost:
            self.observer.message(str(lost))
        except (KeyboardInterrupt, CannotGoOn) as stop:
            if ROW not in trial.user_attrs:  # what has a row is over, and is ended as that says
                trial.set_user_attr(REASON, INTERRUPTED)
                self.study.tell(trial, state=TrialState.FAIL)
            if isinstance(stop, CannotGoOn):
                raise StudyError(str(stop)) from None
            raise
        finally:
            self.current = None

    def _walk(self, trial: optuna.Trial) -> None:
        """One architecture up the ladder; its row is stored, and Optuna is told."""
        sampled = self.space(trial)
        origin = note_start(trial, sampled)
        self.observer.trial_started(trial.number, sampled, origin, self.done, self.trials)
        seconds: dict[str, float] = {}
        candidate = Candidate(architecture=sampled, deployed=sampled)
        state: State = "complete"
        kind, reason = "", None
        before = self._read.get(trial.user_attrs.get(PROMOTED_FROM, -1))
        passed: list[Rung] = []
        try:
            candidate = self.evaluator.admit(sampled)
            state, reason = self._climb(trial, candidate, before, passed, seconds)
            kind = state
        except CannotGoOn:
            raise
        except Rejected as rejection:
            state, reason, kind = "rejected", str(rejection), rejection.kind
        except Exception as error:
            state, reason, kind = "failed", describe(error), "failure"
        row = Row(
            number=trial.number,
            id=canonical_id(candidate.architecture),
            state=state,
            reason=reason,
            origin=origin,
            architecture=candidate.architecture,
            deployed=candidate.deployed if candidate.counts is not None else None,
            values=known_values(candidate),
            costs=candidate.costs,
            seconds=seconds,
            seed=self.seed,
            rungs=(*(() if before is None else before.rungs), *passed),
            trained=self.allowance.trained(trial.user_attrs, len(passed)) if state in ("complete", "stopped") else 0.0,
            promoted_from=None if before is None else before.number,
        )
        self._finish(trial, row, candidate, kind)

    def _climb(
        self,
        trial: optuna.Trial,
        candidate: Candidate,
        before: Row | None,
        passed: list[Rung],
        seconds: dict[str, float],
    ) -> tuple[State, str | None]:
        """Run the stages until a limit or a duplicate stops the candidate. Returns the state and its reason.

        before: the row from which the trial goes on, measured already. passed: takes the rungs of this trial.
        """
        twin = self._twin(trial, canonical_id(candidate.architecture), before)
        if twin is not None:
            return "duplicate", f"same architecture as trial {twin}"
        for stage in STAGES:
            self.observer.stage_started(stage)
            start = self.clock()
            try:
                if stage == "count":
                    self.evaluator.count(candidate)
                elif stage == "train":
                    self._train(trial, candidate, passed)
                elif before is None:
                    self.evaluator.measure(candidate)
                else:
                    candidate.costs = before.costs
                    candidate.measurements = {n: m for n, m in before.values.items() if OBJECTIVES[n].stage == stage}
            finally:
                seconds[stage] = self.clock() - start
                self.work_seconds += {"measure": seconds[stage], "train": candidate.train_seconds}.get(stage, 0.0)
            if stage == "train" and passed[-1].share < 1:
                return "stopped", f"left after {passed[-1].share:g} of the tokens"
            for limit in self.bars.limits:
                if limit.objective.stage == stage:
                    broken = limit.broken_by(limit.objective(candidate))
                    if broken is not None:
                        raise Rejected(broken, limit.name)
        return "complete", None

    def _train(self, trial: optuna.Trial, candidate: Candidate, passed: list[Rung]) -> None:
        """Train and score the candidate on every rung of the trial's stay."""
        seconds = 0.0
        for rung in self.allowance.stay(trial.user_attrs):
            share = self.fidelity.shares[rung]
            self.evaluator.train(candidate, self.seed, self.observer, share)
            passed.append(Rung(share=share, scores=dict(candidate.scores)))
            seconds += candidate.train_seconds
            candidate.train_seconds = seconds

    def _twin(self, trial: optuna.Trial, identity: str, before: Row | None) -> int | None:
        """The trial that has settled this architecture, or runs it now; if there is none, it is this one's.

        before: the row that this trial goes on from, which is no twin.
        """
        with self.crew.turn():
            self.refresh()
            own = None if before is None else before.number
            settled = [row.number for row in self.rows if row.id == identity and is_final(row) and row.number != own]
            running = [
                other.number
                for other in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if other.number != trial.number and other.user_attrs.get(PROXY) == identity
            ]
            trial.set_user_attr(PROXY, identity)
            return next(iter([*settled, *running]), None)

    def _finish(self, trial: optuna.Trial, row: Row, candidate: Candidate, kind: str) -> None:
        """Store files and row, and tell Optuna, in one turn: who has the next one must count the row among the others.

        A trial that has a row is over, whatever happens before Optuna hears of it.
        """
        with self.crew.turn():
            self.refresh()
            self._read[row.number] = row
            self.rows[:] = confirmed_rows(self.study, standing_rows(self._read.values(), INTERRUPTED))
            front, required = self.bars.fronts(self.rows)
            if row.state == "complete":
                self.files.keep(row, candidate, self.rows, {*front, *required})
            note_constraints(trial, row, self.bars, self.rows)
            self.fruitless.note(row, kind)
            try:
                note_row(trial, row)
            except TakenAway:
                del self._read[row.number]
                raise
            tell_row(self.study, trial, row)
            self._let_go(row)
        self.observer.row_finished(row, front, self.done, self.trials)

    def _let_go(self, row: Row) -> None:
        """Delete what trainings would go on from that end with this row, and those of rows too far behind to go on."""
        if row.state in ("complete", "rejected", "stopped"):
            self.evaluator.let_go(row.id, ended=row.state != "stopped")
        for behind in self.allowance.hopeless(self.rows):
            self.evaluator.let_go(behind.id, ended=True)

    def _explain_exhaustion(self) -> None:
        if self.done == 0:
            raise StudyError(f"{self.fruitless.sentence()}; loosen the limits or widen the search space.")
        self.observer.message(f"{self.fruitless.sentence()}: the search ends with {self.done} of {self.trials} trials.")
