"""Trains designs anew on fresh seeds, one training after the other, each stored as it ends (see `retrained`)."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import optuna
import torch

from nas.architecture import Architecture, canonical_id, diagram
from nas.measure import DeviceGone
from nas.study.candidate import describe
from nas.study.confirmation.retrained import (
    FACTORS,
    Plan,
    Training,
    chosen_factor,
    read_retrained,
    retrained_rows,
    store,
    stored,
)
from nas.study.errors import StudyError
from nas.study.events import Observer
from nas.study.rows import Row
from nas.study.training.evaluator import ProxyEvaluator, forget
from nas.study.training.outcomes import Outcome
from nas.study.training.task_training import Job, TaskTrainer, make_trainers
from nas.study.training.watch import watched
from nas.study.training.workers import Workers
from nas.tasks import Task
from nas.training import Recipe


class Trains(Protocol):
    """Trains the tasks that `factors` names, each at that factor of its rates; breaks for no training that breaks."""

    def __call__(
        self, architecture: Architecture, seed: int, factors: Mapping[str, float], observer: Observer
    ) -> Iterator[Training]: ...


@dataclass(frozen=True, kw_only=True)
class Retrainer:
    """Trains as the search does: the same tasks, recipes, device, processes and time limit (see ProxyEvaluator)."""

    trainers: Mapping[str, TaskTrainer]
    workers: Workers | None
    checkpoints: Path
    seconds: float | None
    on_hang: Callable[[str], None] | None = None

    @classmethod
    def of(cls, evaluator: ProxyEvaluator) -> "Retrainer":
        """With what a search has open."""
        assert evaluator.checkpoints is not None, "a search keeps checkpoints"
        return cls(
            trainers=evaluator.trainers,
            workers=evaluator.workers,
            checkpoints=evaluator.checkpoints,
            seconds=evaluator.trial_seconds,
            on_hang=evaluator.on_hang,
        )

    def __call__(
        self, architecture: Architecture, seed: int, factors: Mapping[str, float], observer: Observer
    ) -> Iterator[Training]:
        folder = self.checkpoints / canonical_id(architecture)
        jobs = {
            task: Job(architecture=architecture, seed=seed, checkpoints=folder, seconds=self.seconds, rate=factor)
            for task, factor in factors.items()
        }
        began = time.perf_counter()
        for task, outcome in self._outcomes(jobs, observer):
            broke = isinstance(outcome, str)
            yield Training(
                task=task,
                seed=seed,
                factor=factors[task],
                scores={} if broke else outcome.scores,
                failed=outcome if broke else None,
                seconds=time.perf_counter() - began if broke else outcome.seconds,
            )
        forget(folder)  # only an interruption leaves something to go on from

    def _outcomes(self, jobs: Mapping[str, Job], observer: Observer) -> Iterator[tuple[str, Outcome | str]]:
        if self.workers is not None:
            observer.stage_started(f"train {' and '.join(jobs)}")
            yield from self.workers.attempt(jobs, observer.step)
            return
        for task, job in jobs.items():
            observer.stage_started(f"train {task}")
            yield task, self._train_here(task, job, observer)

    def _train_here(self, task: str, job: Job, observer: Observer) -> Outcome | str:
        try:
            with watched(f"training {task}", job.seconds, self.on_hang):
                return self.trainers[task](job, lambda step, steps, loss: observer.step(task, step, steps, loss))
        except DeviceGone:
            raise
        except Exception as error:
            return describe(error)


@contextmanager
def open_retrainer(
    tasks: Mapping[str, Task],
    recipes: Mapping[str, Recipe],
    *,
    device: torch.device,
    folder: Path,
    seconds: float | None,
    devices: int = 1,
    strategy: str = "auto",
    on_hang: Callable[[str], None] | None = None,
) -> Iterator[Retrainer]:
    """A retrainer for the block. On a CPU with a core for each of several tasks, tasks train side by side."""
    trainers = make_trainers(tasks, recipes, device, devices=devices, strategy=strategy)
    with ExitStack() as stack:
        side_by_side = device.type == "cpu" and devices == 1 and 1 < len(trainers) <= torch.get_num_threads()
        workers = stack.enter_context(Workers(trainers)) if side_by_side else None
        yield Retrainer(trainers=trainers, workers=workers, checkpoints=folder, seconds=seconds, on_hang=on_hang)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keeps a second process of this machine from confirming the same study. Raises StudyError where one does."""
    file = os.open(directory / "confirm.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"Another process is confirming the study in {directory}; wait for it.") from None
        yield
    finally:
        os.close(file)


def retrain(
    study: optuna.Study,
    trainer: Trains,
    plan: Plan,
    rows: Sequence[Row],
    choose: Callable[[Sequence[Row]], Sequence[Row]],
    observer: Observer,
) -> list[Row]:
    """Train the designs that `choose` names until all of them are done; returns the rows with the new scores.

    choose: picks among the rows, given with the scores as they are then known. A new score may let in a design that
    seemed beaten, which then is trained too. Nothing that the study holds already is trained again.
    """
    while True:
        known = retrained_rows(study, rows)
        waiting = [row for row in choose(known) if read_retrained(study.user_attrs, plan, row.id) is None]
        if not waiting:
            return known
        for place, row in enumerate(waiting, start=1):
            observer.message(f"design {place} of {len(waiting)}: trial {row.number}, {diagram(row.architecture)}")
            retrain_design(study, trainer, plan, row, observer)


def retrain_design(study: optuna.Study, trainer: Trains, plan: Plan, row: Row, observer: Observer) -> None:
    """Every training of the plan for one design that is not stored yet."""

    def ensure(seed: int, factors: Mapping[str, float]) -> None:
        attrs = study.user_attrs
        lacking = {t: factor for t, factor in factors.items() if stored(attrs, row.id, t, seed, factor) is None}
        for training in trainer(row.architecture, seed, lacking, observer) if lacking else ():
            store(study, row.id, training)
            observer.message(sentence(training))

    if plan.tuning_seed is not None:
        for factor in FACTORS:
            ensure(plan.tuning_seed, dict.fromkeys(plan.deciding, factor))
    for seed in plan.seeds:
        ensure(seed, dict.fromkeys(plan.deciding, 1.0))
    attrs = study.user_attrs
    chosen = {task: chosen_factor(attrs, plan, row.id, task) for task in plan.deciding}
    others = {task: factor for task, factor in chosen.items() if factor is not None and factor != 1.0}
    for seed in plan.seeds if others else ():
        ensure(seed, others)


def sentence(training: Training) -> str:
    """`text on seed 1000001 at 2 times the rate: text_loss 2.913 (21 s)`."""
    what = f"{training.task} on seed {training.seed} at {training.factor:g} times the rate"
    if training.failed is not None:
        return f"{what} broke: {training.failed}"
    numbers = ", ".join(f"{name} {number.value:.4g}" for name, number in training.scores.items())
    return f"{what}: {numbers} ({training.seconds:.0f} s)"
