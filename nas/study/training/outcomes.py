"""A finished training of one task on disk, until the row that it belongs to is stored.

A trial is several trainings, one for each task and rung. Who is killed after some of them goes on with the next.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas.measurement import Measurement

ENDING = ".done"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training gave: the task's scores, the trained weights by name, on the CPU, and the seconds of both.

    notes: what a user should know of, a sentence each.
    """

    scores: dict[str, Measurement]
    weights: dict[str, Tensor]
    seconds: float
    notes: tuple[str, ...] = ()


def write_outcome(path: Path, outcome: Outcome, stamp: str) -> str | None:
    """Write it, whole or not at all, with what it was trained as; the reason where that fails, or None."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scores = {name: score.to_dict() for name, score in outcome.scores.items()}
        torch.save({"stamp": stamp, "scores": scores, "weights": outcome.weights}, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises the second for a disk that is full
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def read_outcome(path: Path, stamp: str) -> Outcome | None:
    """The finished training, which took no time now; None where there is none. One that cannot be read, or that was
    trained as something else, is deleted."""
    if not path.exists():
        return None
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        if data["stamp"] != stamp:
            raise ValueError("another training")
        scores = {name: Measurement.from_dict(score) for name, score in data["scores"].items()}
        return Outcome(scores=scores, weights=data["weights"], seconds=0.0)
    except Exception:  # a torn file raises nearly anything; the training is done again
        path.unlink(missing_ok=True)
        return None


def forget_outcomes(folder: Path) -> None:
    """Delete the finished trainings of one architecture, and leave what a longer training goes on from."""
    for path in folder.glob(f"*{ENDING}"):
        path.unlink(missing_ok=True)
