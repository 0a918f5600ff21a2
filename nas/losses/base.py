"""The contract of a loss: what the model reads, and what its answers to that are worth."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Question(NamedTuple):
    """What a model is asked in one step.

    tokens int64 [B, T]: what it reads. targets int64 [B, T], -100 where nothing is asked, or [B, T, G] for G answers at
    a place, as in a task's batches. weights float32 [B]: factors of the sequences' summed losses; None: the mean over
    all answers counts.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device) -> "Question":
        return Question(*(part.to(device) for part in self if part is not None))


class Loss(Protocol):
    """A loss in two halves, between which the model reads."""

    def ask(self, tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Question:
        """The question that a batch of a task becomes, on the CPU. What is random about it comes from the generator."""
        ...

    def __call__(
        self, x_btd: Tensor, head_vd: Tensor, question: Question, soft_cap: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(what is minimised in nats, further numbers without gradient), given `Model.before_head` of the tokens."""
        ...
