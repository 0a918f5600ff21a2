"""Next-token cross-entropy: the loss of a causal language model and of recall alike."""

import torch
from torch import Tensor

from kernels import linear_cross_entropy
from nas.losses.base import Question


class Causal:
    """Batches are asked as they are."""

    def ask(self, tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Question:
        return Question(tokens, targets)

    def __call__(
        self, x_btd: Tensor, head_vd: Tensor, question: Question, soft_cap: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return causal(x_btd, head_vd, question.targets, soft_cap)


def causal(
    x_btd: Tensor, head_vd: Tensor, targets_bt: Tensor, soft_cap: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean of -ln p(target) over the positions asked for; logits are never made for all of them at once.

    Args:
        x_btd: [B, T, d], what enters the head (`Model.before_head`).
        head_vd: [V, d], the weight of the head.
        targets_bt: int64 [B, T], or [B, T, G] for G answers at a position, each among its own V / G outputs; -100 asks
            for nothing. At least one answer must be asked for.
        soft_cap: logits are capped at it, if given.

    Returns:
        (loss in nats per target, {"nats": the same without gradient}).
    """
    if targets_bt.ndim == 2:
        loss = linear_cross_entropy(x_btd, head_vd, targets_bt, soft_cap=soft_cap)
        return loss, {"nats": loss.detach()}
    answers = zip(head_vd.chunk(targets_bt.shape[-1]), targets_bt.unbind(-1), strict=True)
    sums = [linear_cross_entropy(x_btd, head, of, soft_cap=soft_cap, reduction="sum") for head, of in answers]
    loss = sum(sums[1:], sums[0]) / (targets_bt != -100).sum()
    return loss, {"nats": loss.detach()}
