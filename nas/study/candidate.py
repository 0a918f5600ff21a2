"""One architecture on its way up the ladder, and what can stop it there."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from nas.architecture import Architecture
from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.study.events import Observer


class Rejected(Exception):
    """The architecture breaks a hard limit or cannot be built as asked; the message is the recorded reason.

    `kind` is the heading under which such samples are counted: the limit's name, or `parameter matching`.
    """

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


class CannotGoOn(RuntimeError):
    """The device is gone, or busy where the user wants no busy one: the search stops, and can be taken up again."""


class TaskFailed(RuntimeError):
    """A task's training broke in a process of its own. The message names the error's kind and what it said."""


@dataclass(kw_only=True)
class Candidate:
    """What is known so far: counted after `count`, measured after `measure`, scored after `train`.

    `architecture` is the proxy that is trained, `deployed` the model that is counted and measured. `costs` are the
    timed quantities under each cost model, in milliseconds. `weights` are the trained tensors of the first task, by
    name. `train_seconds` is what training and scoring alone took, without what the tool does around them.
    """

    architecture: Architecture
    deployed: Architecture
    counts: Any = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    scores: dict[str, Measurement] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    train_seconds: float = 0.0


class Evaluator(Protocol):
    """The ladder's stages, cheapest first. Each writes its numbers into the candidate.

    `admit` and `measure` raise Rejected for what cannot be matched, deployed or held by the device; the stages raise
    whatever fails, and the run loop records it. CannotGoOn stops the search.
    """

    def admit(self, architecture: Architecture) -> Candidate:
        """Match the parameters of a sampled architecture and map it to its deployment."""
        ...

    def count(self, candidate: Candidate) -> None: ...

    def measure(self, candidate: Candidate) -> None: ...

    def confirm(self, candidate: Candidate) -> bool:
        """Measure what `measure` predicted; False where predictions are all that is wanted."""
        ...

    def train(self, candidate: Candidate, seed: int, observer: Observer, share: float = 1.0) -> None:
        """Train on that share of the tokens, going on from a smaller share where one was trained before, and score."""
        ...

    def let_go(self, identity: str, *, ended: bool) -> None:
        """Delete what an interrupted training of an architecture would go on from, because its scores are stored.

        ended: no further training of it is to be expected; else what a longer one goes on from is kept.
        """
        ...

    def save(self, candidate: Candidate, stem: str) -> None:
        """Write the trained weights beside `stem`, a path without its ending."""
        ...


def describe(error: BaseException) -> str:
    """Kind and first line of an error, at most 300 characters; a failed task already says its kind."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else "no message"
    return (text if isinstance(error, TaskFailed) else f"{type(error).__name__}: {text}")[:300]


def known_values(candidate: Candidate) -> dict[str, Measurement]:
    """Every objective's number that the stages passed so far have given."""
    stages = {
        "count": candidate.counts is not None,
        "measure": bool(candidate.measurements),
        "train": bool(candidate.scores),
    }
    known = candidate.measurements.keys() | candidate.scores.keys()
    return {
        name: objective(candidate)
        for name, objective in OBJECTIVES.items()
        if stages[objective.stage] and (objective.stage == "count" or name in known)
    }
