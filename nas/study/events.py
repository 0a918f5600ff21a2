"""What the run loop tells whoever watches it: the progress display, the tracker, a test."""

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
