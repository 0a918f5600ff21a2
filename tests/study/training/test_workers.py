"""Trainings in processes of their own: what breaks or hangs there is told here."""

import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.study.candidate import TaskFailed
from nas.study.training import workers as workers_module
from nas.study.training.outcomes import Outcome
from nas.study.training.task_training import Job
from nas.study.training.watch import LENIENCE
from nas.study.training.workers import Workers
from tests.study.toys import ALL_ATTENTION, space


@dataclass
class Trainer:
    """Does what its name says, once; afterwards it trains."""

    does: str

    def __call__(self, job: Job, on_step: Any) -> Outcome:
        if job.seed == 0 and self.does == "hang":
            time.sleep(3600)
        if job.seed == 0 and self.does == "die":
            os._exit(9)
        return Outcome(scores={}, weights={}, seconds=1.0)


def architecture() -> Architecture:
    class Given:
        def suggest_categorical(self, name: str, choices: Any) -> Any:
            return ALL_ATTENTION[name]

    return space(Given())


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("hang", "TookTooLong: training broken took longer than budget.trial_minutes=1 allows"),
        ("die", "the process that trained broken ended with code 9"),
    ],
)
def test_a_training_that_hangs_or_dies_fails_its_trial_and_the_next_one_trains(
    does: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def wait_for_the_sound(pipes: list[Connection], seconds: float) -> list[Any]:
        """All the time passes at once when nothing but what hangs is waited for, and none before."""
        waited.append(seconds)
        return [] if does == "hang" and len(pipes) == 1 else wait(pipes)

    monkeypatch.setattr(workers_module, "wait", wait_for_the_sound)
    trainers: Any = {"broken": Trainer(does), "sound": Trainer("train")}
    with Workers(trainers) as workers:
        with pytest.raises(TaskFailed, match=reason):
            workers.train(Job(architecture=architecture(), seed=0, seconds=60.0), lambda *_: None)
        assert waited and max(waited) <= LENIENCE * 60, "no longer than it may take"
        monkeypatch.undo()
        outcomes = workers.train(Job(architecture=architecture(), seed=1), lambda *_: None)
        assert set(outcomes) == {"broken", "sound"}


def test_of_several_jobs_each_tells_its_own_end_and_a_task_without_one_rests() -> None:
    trainers: Any = {"broken": Trainer("die"), "sound": Trainer("train"), "idle": Trainer("die")}
    with Workers(trainers) as workers:
        job = Job(architecture=architecture(), seed=0)
        ended = dict(workers.attempt({"broken": job, "sound": job}, lambda *_: None))
    assert set(ended) == {"broken", "sound"}
    assert str(ended["broken"]).startswith("the process that trained broken ended with code 9")
    assert isinstance(ended["sound"], Outcome)
