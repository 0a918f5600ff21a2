"""The ladder's stages on real models: match and deploy, count, measure at the deployment, train and score proxies."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from nas.architecture import Architecture
from nas.checkpoint import save_weights
from nas.count import CannotMatch, count, deployed, match_parameters
from nas.measure import choose_device, choose_dtype, measure_model
from nas.study.candidate import Candidate, Rejected
from nas.study.events import Observer
from nas.study.task_training import Job, Outcome, TaskTrainer, make_trainers
from nas.study.workers import Workers
from nas.tasks import Task
from nas.training import Recipe
from nas.workload import Deployment


@dataclass(kw_only=True)
class ProxyEvaluator:
    """Evaluates candidates of one study.

    trainers: one for each task, prepared; the first one's weights are those that are kept. parameters: the number that
    proxies are matched to, or None. workers: processes that train the tasks side by side; None trains them here, one
    after the other.
    """

    trainers: Mapping[str, TaskTrainer]
    deployment: Deployment
    parameters: int | None
    workers: Workers | None = None

    def admit(self, architecture: Architecture) -> Candidate:
        try:
            proxy = architecture if self.parameters is None else match_parameters(architecture, self.parameters)
            return Candidate(architecture=proxy, deployed=deployed(proxy, self.deployment))
        except CannotMatch as error:
            raise Rejected(str(error), "parameter matching") from None

    def count(self, candidate: Candidate) -> None:
        dtype = choose_dtype(self.deployment.dtype, choose_device(self.deployment.device))
        candidate.counts = count(candidate.deployed, self.deployment.workload, dtype=dtype)

    def measure(self, candidate: Candidate) -> None:
        candidate.measurements = measure_model(candidate.deployed, self.deployment)

    def train(self, candidate: Candidate, seed: int, observer: Observer) -> None:
        job = Job(architecture=candidate.architecture, seed=seed)
        if self.workers is not None:
            observer.stage_started(f"train {' and '.join(self.trainers)}")
            outcomes = self.workers.train(job, observer.step)
        else:
            outcomes = {name: self._train_here(name, job, observer) for name in self.trainers}
        for outcome in outcomes.values():
            candidate.scores.update(outcome.scores)
        candidate.weights = next(iter(outcomes.values())).weights

    def _train_here(self, name: str, job: Job, observer: Observer) -> Outcome:
        observer.stage_started(f"train {name}")
        return self.trainers[name](job, lambda step, steps, loss: observer.step(name, step, steps, loss))

    def save(self, candidate: Candidate, stem: str) -> None:
        scores = {metric: f"{m.value:.6g} {m.unit}" for metric, m in candidate.scores.items()}
        save_weights(f"{stem}.safetensors", candidate.weights, {"task": next(iter(self.trainers)), **scores})


@contextmanager
def open_evaluator(
    tasks: Mapping[str, Task], recipes: Mapping[str, Recipe], deployment: Deployment, parameters: int | None
) -> Iterator[ProxyEvaluator]:
    """An evaluator for the block. On a CPU with a core for each of several tasks, tasks train side by side."""
    device = choose_device(deployment.device)
    trainers = make_trainers(tasks, recipes, "cpu" if device.type == "cpu" else "gpu")
    with ExitStack() as stack:
        side_by_side = device.type == "cpu" and 1 < len(trainers) <= torch.get_num_threads()
        workers = stack.enter_context(Workers(trainers)) if side_by_side else None
        yield ProxyEvaluator(trainers=trainers, deployment=deployment, parameters=parameters, workers=workers)
