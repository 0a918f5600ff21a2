"""What the run loop tells whoever watches it: the progress display, the tracker, a test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nas.architecture import Architecture
from nas.study.rows import Row


class Observer(Protocol):
    """Told of each event as it happens; every method returns at once and raises nothing.

    Who subclasses it overrides what it wants to hear; the rest goes unheard.
    """

    def trial_started(self, number: int, architecture: Architecture, origin: str, done: int, total: int) -> None:
        """A sampled architecture enters the ladder; `done` of `total` are trained."""

    def stage_started(self, stage: str) -> None:
        """`count`, `measure`, or `train <task>` of the current trial begins."""

    def step(self, task: str, step: int, steps: int, loss: float) -> None:
        """One training step of the current trial ended."""

    def row_finished(self, row: Row, front: tuple[int, ...], done: int, total: int) -> None:
        """The current trial ended; `front` are the trial numbers of the provisional front."""

    def message(self, text: str) -> None:
        """One line that a user should see."""


@dataclass
class Watchers(Observer):
    """Several observers as one."""

    observers: Sequence[Observer]

    def trial_started(self, number: int, architecture: Architecture, origin: str, done: int, total: int) -> None:
        for observer in self.observers:
            observer.trial_started(number, architecture, origin, done, total)

    def stage_started(self, stage: str) -> None:
        for observer in self.observers:
            observer.stage_started(stage)

    def step(self, task: str, step: int, steps: int, loss: float) -> None:
        for observer in self.observers:
            observer.step(task, step, steps, loss)

    def row_finished(self, row: Row, front: tuple[int, ...], done: int, total: int) -> None:
        for observer in self.observers:
            observer.row_finished(row, front, done, total)

    def message(self, text: str) -> None:
        for observer in self.observers:
            observer.message(text)
