"""Trains one task's copy of an architecture and scores it: the unit of work of the ladder's last stage.

Each task trains its own copy with the same recipe, seed and data order for every architecture. Synthetic tasks scale
windows and blocks with their length, so that a window strains a short task as it strains text.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nas.architecture import Architecture, Scale, resized
from nas.compile import compile_architecture
from nas.measure import DeviceGone, DeviceLock, while_it_answers
from nas.measurement import Measurement
from nas.study.training.outcomes import ENDING, Outcome, read_outcome, write_outcome
from nas.study.training.release import release
from nas.tasks import Task
from nas.training import Device, Recipe, evaluate, fit, learning_rates

OnStep = Callable[[int, int, float], None]


class NonFiniteScore(ArithmeticError):
    """A trained model scored infinite or not a number."""


class TookTooLong(RuntimeError):
    """A training was given up after the time that the user allows for it."""


def too_long(what: str, seconds: float) -> str:
    """The reason that is recorded."""
    return f"{what} took longer than budget.trial_minutes={seconds / 60:g} allows"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: the architecture of the candidate, and the seed of its weights and data order.

    checkpoints: the folder for what an interrupted training goes on from, and for what a finished one gave; None keeps
    nothing. seconds: after which a
    training is given up; None for never. rate: multiplies the learning rates of the recipe. share: of the tokens, after
    which training ends; a checkpoint then stays for a training that goes on.
    """

    architecture: Architecture
    seed: int
    checkpoints: Path | None = None
    seconds: float | None = None
    rate: float = 1.0
    share: float = 1.0

    def checkpoint(self, task: str) -> Path | None:
        """The file that an interrupted training of one task goes on from."""
        return self._file(task, f"{self._at_share}.ckpt")

    def finished(self, task: str) -> Path | None:
        """The file of what the training of one task gave, for a trial that is interrupted after it."""
        return self._file(task, f"{self._at_share}{ENDING}")

    def branch(self, task: str) -> Path | None:
        """The file that a training of more tokens goes on from; None where there is none and none is wanted."""
        path = self._file(task, "-stable.ckpt")
        return path if path is not None and (self.share < 1 or path.exists()) else None

    @property
    def _at_share(self) -> str:
        return "" if self.share == 1 else f"-{self.share:g}"

    def _file(self, task: str, ending: str) -> Path | None:
        at_rate = "" if self.rate == 1 else f"-x{self.rate:g}"
        return None if self.checkpoints is None else self.checkpoints / f"{task}-{self.seed}{at_rate}{ending}"


@dataclass(frozen=True, kw_only=True)
class TaskTrainer:
    """Trains and scores one task on a device. `tokens` multiplies windows and blocks (1 for text).

    The device is shared with other training, and left to whoever measures on it between two steps.
    """

    task: Task
    recipe: Recipe
    tokens: float
    device: Device
    lock: DeviceLock
    devices: int = 1
    strategy: str = "auto"

    def __call__(self, job: Job, on_step: OnStep) -> Outcome:
        """What the training gives, or gave when the same job was done before and its row was not stored."""
        path = job.finished(self.task.name)
        known = None if path is None else read_outcome(path, self._stamp())
        if known is not None:
            return known
        try:
            with while_it_answers(torch.device("cpu" if self.device == "cpu" else "cuda")):
                outcome = self._train(job, on_step)
        except DeviceGone:  # nothing can be given back to it
            raise
        except Exception as error:
            release(error)
            raise
        problem = None if path is None else write_outcome(path, outcome, self._stamp())
        if problem is None:
            return outcome
        note = f"what training {self.task.name} gave could not be written to {path} ({problem}); it counts all the same"
        return replace(outcome, notes=(*outcome.notes, note))

    def _stamp(self) -> str:
        """What a training is, besides the job."""
        return f"{self.recipe} {self.tokens} {self.task.name}: {self.task.describe()}"

    def _train(self, job: Job, on_step: OnStep) -> Outcome:
        started = time.perf_counter()

        def after_step(step: int, steps: int, loss: float) -> None:
            on_step(step, steps, loss)
            if job.seconds is not None and time.perf_counter() - started > job.seconds:
                raise TookTooLong(too_long(f"training {self.task.name}", job.seconds))
            self.lock.give_way()

        architecture = resized(job.architecture, Scale(tokens=self.tokens))
        model = compile_architecture(replace(architecture, vocab_size=self.task.vocab_size), seed=job.seed)
        rates = learning_rates(self.task.name)
        with self.lock.shared():
            start = time.perf_counter()
            trained = fit(
                model,
                self.task,
                replace(self.recipe, learning_rate_scale=self.recipe.learning_rate_scale * job.rate),
                seed=job.seed,
                learning_rates=rates,
                on_step=after_step,
                device=self.device,
                resume_path=job.checkpoint(self.task.name),
                share=job.share,
                branch_path=job.branch(self.task.name),
                devices=self.devices,
                strategy=self.strategy,
            )
            scores = evaluate(model, self.task, self.recipe, device=self.device)
            seconds = time.perf_counter() - start
        for name, score in scores.items():
            if not math.isfinite(score.value):
                raise NonFiniteScore(f"{name} is {score.value} after training; a lower learning rate may hold.")
        return Outcome(
            scores={
                metric.name: Measurement(
                    value=scores[metric.name].value,
                    unit=metric.unit,
                    low=scores[metric.name].value - scores[metric.name].spread,
                    high=scores[metric.name].value + scores[metric.name].spread,
                    n=scores[metric.name].n,
                    source="scored",
                )
                for metric in self.task.metrics
            },
            weights={name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
            seconds=seconds,
            notes=trained.notes,
        )


def make_trainers(
    tasks: Mapping[str, Task],
    recipes: Mapping[str, Recipe],
    device: torch.device,
    *,
    devices: int = 1,
    strategy: str = "auto",
) -> dict[str, TaskTrainer]:
    """A trainer for each task; synthetic tasks scale windows by their length relative to the text's.

    devices, strategy: how many train one model together, and how (nas.training.fit).
    """
    text_lengths = [task.sequence_length for task in tasks.values() if not task.synthetic]
    return {
        name: TaskTrainer(
            task=task,
            recipe=recipes[name],
            tokens=task.sequence_length / text_lengths[0] if task.synthetic and text_lengths else 1.0,
            device="cpu" if device.type == "cpu" else "gpu",
            lock=DeviceLock.of(device),
            devices=devices,
            strategy=strategy,
        )
        for name, task in tasks.items()
    }
