"""One architecture through all rungs, for tables that hold what every rung says of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nas.architecture import Architecture
from nas.measurement import Measurement
from nas.study.training.task_training import Job, TaskTrainer


@dataclass(frozen=True, kw_only=True)
class RungTrainer:
    """trainers: one for each task. shares: the rungs, increasing, the last one 1."""

    trainers: Mapping[str, TaskTrainer]
    shares: tuple[float, ...]

    def __call__(self, architecture: Architecture, seed: int) -> tuple[list[dict[str, Measurement]], float]:
        """The scores of all tasks at each rung, and the seconds of it all."""
        began = time.perf_counter()
        scores: list[dict[str, Measurement]] = []
        with TemporaryDirectory() as folder:
            for share in self.shares:
                job = Job(architecture=architecture, seed=seed, checkpoints=Path(folder), share=share)
                outcomes = (trainer(job, lambda *_: None) for trainer in self.trainers.values())
                scores.append({name: score for outcome in outcomes for name, score in outcome.scores.items()})
        return scores, time.perf_counter() - began
