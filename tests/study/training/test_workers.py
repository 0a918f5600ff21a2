"""Trainings in processes of their own: what breaks or hangs there is told here."""

import os
import time
from dataclasses import dataclass
from typing import Any

import pytest

from nas.architecture import Architecture
from nas.study.candidate import TaskFailed
from nas.study.training.outcomes import Outcome
from nas.study.training.task_training import Job
from nas.study.training.workers import Workers
from tests.study.toys import ALL_ATTENTION, space


@dataclass
class Trainer:
    """Does what its name says, once; afterwards it trains."""

    does: str

    def __call__(self, job: Job, on_step: Any) -> Outcome:
        if job.seed == 0 and self.does == "hang":
            time.sleep(600)
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
        ("hang", "TookTooLong: training broken took longer than budget.trial_minutes=0.01 allows"),
        ("die", "the process that trained broken ended with code 9"),
    ],
)
def test_a_training_that_hangs_or_dies_fails_its_trial_and_the_next_one_trains(does: str, reason: str) -> None:
    trainers: Any = {"broken": Trainer(does), "sound": Trainer("train")}
    with Workers(trainers) as workers:
        began = time.monotonic()
        with pytest.raises(TaskFailed, match=reason):
            workers.train(Job(architecture=architecture(), seed=0, seconds=0.6), lambda *_: None)
        assert time.monotonic() - began < 30
        outcomes = workers.train(Job(architecture=architecture(), seed=1, seconds=60.0), lambda *_: None)
        assert set(outcomes) == {"broken", "sound"}


def test_of_several_jobs_each_tells_its_own_end_and_a_task_without_one_rests() -> None:
    trainers: Any = {"broken": Trainer("die"), "sound": Trainer("train"), "idle": Trainer("die")}
    with Workers(trainers) as workers:
        job = Job(architecture=architecture(), seed=0)
        ended = dict(workers.attempt({"broken": job, "sound": job}, lambda *_: None))
    assert set(ended) == {"broken", "sound"}
    assert str(ended["broken"]).startswith("the process that trained broken ended with code 9")
    assert isinstance(ended["sound"], Outcome)
