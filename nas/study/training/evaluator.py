"""The ladder's stages on real models: match and deploy, count, measure at the deployment, train and score proxies."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.architecture import Architecture, canonical_id
from nas.checkpoint import save_weights
from nas.count import CannotMatch, count, deployed, match_parameters
from nas.deployment import Deployment
from nas.measure import (
    DTYPES,
    DeviceBusy,
    DeviceGone,
    DoesNotFit,
    Measured,
    Meter,
    NotInTable,
    choose_device,
    dtype_of,
    open_meter,
)
from nas.study.candidate import Candidate, CannotGoOn, Rejected
from nas.study.events import Observer
from nas.study.training.outcomes import Outcome, forget_outcomes
from nas.study.training.task_training import Job, TaskTrainer, make_trainers
from nas.study.training.watch import watched
from nas.study.training.workers import Workers
from nas.tasks import Task
from nas.training import Recipe


@dataclass(kw_only=True)
class ProxyEvaluator:
    """Evaluates candidates of one study.

    trainers: one for each task, prepared; the first one's weights are those that are kept. parameters: the number that
    proxies are matched to, or None. task_configs: the settings that each task was made from; the first one's are kept
    beside the weights, so that training goes on with the same data. workers: processes that train the tasks side by
    side; None trains them here, one after the other. checkpoints: the folder in which interrupted trainings leave what
    they go on from. trial_seconds: after which the training of one task is given up. on_hang: is told, in another
    thread, that a training here or measuring hangs and cannot be given up otherwise than with this process.
    """

    trainers: Mapping[str, TaskTrainer]
    deployment: Deployment
    meter: Meter
    parameters: int | None
    task_configs: Mapping[str, Mapping[str, Any]]
    workers: Workers | None = None
    checkpoints: Path | None = None
    trial_seconds: float | None = None
    on_hang: Callable[[str], None] | None = None

    def admit(self, architecture: Architecture) -> Candidate:
        try:
            proxy = architecture if self.parameters is None else match_parameters(architecture, self.parameters)
            return Candidate(architecture=proxy, deployed=deployed(proxy, self.deployment))
        except CannotMatch as error:
            raise Rejected(str(error), "parameter matching") from None

    def count(self, candidate: Candidate) -> None:
        dtype = DTYPES[dtype_of(self.deployment)]
        candidate.counts = count(candidate.deployed, self.deployment.workload.length, dtype=dtype)

    def measure(self, candidate: Candidate) -> None:
        self._take(candidate, self.meter.measure)

    def confirm(self, candidate: Candidate) -> bool:
        return self._take(candidate, self.meter.confirm)

    def _take(self, candidate: Candidate, measure: Callable[[Architecture], Measured | None]) -> bool:
        try:
            with watched("measuring", self.trial_seconds, self.on_hang):
                measured = measure(candidate.deployed)
        except DoesNotFit as error:
            raise Rejected(str(error), "memory") from None
        except NotInTable as error:
            raise Rejected(str(error), "blocks that the table lacks") from None
        except (DeviceBusy, DeviceGone) as error:
            raise CannotGoOn(str(error)) from None
        if measured is None:
            return False
        candidate.measurements = measured.numbers
        candidate.costs = {
            model: {quantity: time.value for quantity, time in times.items()} for model, times in measured.costs.items()
        }
        return True

    def train(self, candidate: Candidate, seed: int, observer: Observer, share: float = 1.0) -> None:
        folder = None if self.checkpoints is None else self.checkpoints / canonical_id(candidate.architecture)
        job = Job(
            architecture=candidate.architecture,
            seed=seed,
            checkpoints=folder,
            seconds=self.trial_seconds,
            share=share,
        )
        try:
            self._train(candidate, job, observer)
        except DeviceGone as error:  # no fault of the architecture, which goes on from its checkpoint
            raise CannotGoOn(str(error)) from None
        except Exception:
            forget(folder)  # it would break again; only an interruption leaves something to go on from
            raise

    def let_go(self, identity: str, *, ended: bool) -> None:
        if self.checkpoints is None:
            return
        if ended:
            forget(self.checkpoints / identity)
        else:
            forget_outcomes(self.checkpoints / identity)

    def _train(self, candidate: Candidate, job: Job, observer: Observer) -> None:
        if self.workers is not None:
            observer.stage_started(f"train {' and '.join(self.trainers)}")
            outcomes = self.workers.train(job, observer.step)
            candidate.train_seconds = max(outcome.seconds for outcome in outcomes.values())
        else:
            outcomes = {name: self._train_here(name, job, observer) for name in self.trainers}
            candidate.train_seconds = sum(outcome.seconds for outcome in outcomes.values())
        for outcome in outcomes.values():
            candidate.scores.update(outcome.scores)
            for note in outcome.notes:
                observer.message(note)
        candidate.weights = next(iter(outcomes.values())).weights

    def _train_here(self, name: str, job: Job, observer: Observer) -> Outcome:
        observer.stage_started(f"train {name}")
        with watched(f"training {name}", job.seconds, self.on_hang):
            return self.trainers[name](job, lambda step, steps, loss: observer.step(name, step, steps, loss))

    def save(self, candidate: Candidate, stem: str) -> None:
        name, trainer = next(iter(self.trainers.items()))
        metadata = {"task": trainer.task.name, "task_config": json.dumps(dict(self.task_configs[name]))}
        scores = {metric: f"{m.value:.6g} {m.unit}" for metric, m in candidate.scores.items()}
        save_weights(f"{stem}.safetensors", candidate.weights, metadata | scores)


@contextmanager
def open_evaluator(
    tasks: Mapping[str, Task],
    recipes: Mapping[str, Recipe],
    deployment: Deployment,
    parameters: int | None,
    task_configs: Mapping[str, Mapping[str, Any]],
    *,
    device: str,
    tables: Path,
    checkpoints: Path | None = None,
    trial_seconds: float | None = None,
    devices: int = 1,
    strategy: str = "auto",
) -> Iterator[ProxyEvaluator]:
    """An evaluator for the block. On a CPU with a core for each of several tasks, tasks train side by side.

    device: where proxies train, which need not be where the deployment is. tables: the user's folder of block tables.
    checkpoints, trial_seconds: see ProxyEvaluator. devices, strategy: of each training (nas.training.fit).
    """
    place = choose_device(device)
    trainers = make_trainers(tasks, recipes, place, devices=devices, strategy=strategy)
    with ExitStack() as stack:
        side_by_side = place.type == "cpu" and devices == 1 and 1 < len(trainers) <= torch.get_num_threads()
        workers = stack.enter_context(Workers(trainers)) if side_by_side else None
        yield ProxyEvaluator(
            trainers=trainers,
            deployment=deployment,
            meter=open_meter(deployment, tables),
            parameters=parameters,
            task_configs=task_configs,
            workers=workers,
            checkpoints=checkpoints,
            trial_seconds=trial_seconds,
        )


def forget(folder: Path | None) -> None:
    """Delete the checkpoints of one architecture."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
