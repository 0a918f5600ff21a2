"""Quality: what a trained proxy scores on its tasks. Each task trains its own copy of the architecture."""

from nas.measurement import Measurement
from nas.objectives.base import Candidate, Direction, Objective, lookup


def score(name: str, unit: str, direction: Direction, help: str) -> Objective:
    """An objective that a task's evaluation gives under `name`."""

    def read(candidate: Candidate) -> Measurement:
        return lookup(name, candidate.scores, "the tasks")

    return Objective(name=name, unit=unit, direction=direction, stage="train", help=help, read=read)


TEXT_LOSS = score("text_loss", "bits/byte", "minimize", "loss on held-out text; nearly flat over sane designs")
RECALL = score("recall", "share", "maximize", "answers right on multi-query associative recall; jumps late in training")
RECALL_BITS = score("recall_bits", "bits/answer", "minimize", "loss on those answers; moves before recall does")
