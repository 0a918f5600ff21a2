"""Masked diffusion: a share of the tokens is masked, and asked for from all others.

    L = E_t [1/t sum_i 1[x_i masked] -ln p(x_i | x_t)] / n,  t ~ U(0, 1), each of the n tokens masked with probability t

is a bound of -ln p(x) per token from above. Sources: MDLM (Sahoo et al., arXiv 2406.07524, section 3.3, for the linear
schedule 1 - t, with t spread evenly over the batch), LLaDA (Nie et al., arXiv 2502.09992, section 2.2).

Batches of tasks are made for models that read forwards: targets stand where a token is read. Two kinds are told apart.
* Targets that are the tokens that follow (text): these are what is masked, and the last one stands behind the sequence.
  What is never asked for, as the first token, is never masked; so the same tokens are predicted as by a causal model,
  and a token more is read.
* Other targets (recall: the value that belongs to a key) are nowhere in the sequence. Nothing is masked, and they are
  asked for at their place, from all of the sequence.
"""

import torch
from torch import Tensor

from kernels import linear_cross_entropy
from nas.losses.base import Question
from nas.losses.causal import causal

IGNORED = -100
LEAST_SHARE = 1e-3
"""Of masked tokens: LLaDA's ε, which bounds the weight of a sequence."""


class MaskedDiffusion:
    """mask_token: the id that stands for a masked token."""

    def __init__(self, mask_token: int) -> None:
        self.mask_token = mask_token

    def ask(self, tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Question:
        if not follow(tokens, targets):
            return Question(tokens, targets)
        whole, asked = canvas(tokens, targets)
        sequences = len(whole)
        t = (torch.rand((), generator=generator) + torch.arange(sequences) / sequences) % 1
        share = (1 - LEAST_SHARE) * t + LEAST_SHARE
        masked = asked & (torch.rand(whole.shape, generator=generator) < share.unsqueeze(1))
        answers = whole.masked_fill(~masked, IGNORED)
        weights = 1 / (share * asked.sum().clamp(min=1))
        return Question(whole.masked_fill(masked, self.mask_token), answers, weights)

    def __call__(
        self, x_btd: Tensor, head_vd: Tensor, question: Question, soft_cap: float | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if question.weights is None:
            return causal(x_btd, head_vd, question.targets, soft_cap)
        factors = question.weights.unsqueeze(1).expand_as(question.targets)
        loss = linear_cross_entropy(
            x_btd, head_vd, question.targets, soft_cap=soft_cap, reduction="sum", factors=factors
        )
        return loss, {"nats": loss.detach()}


def follow(tokens: Tensor, targets: Tensor) -> bool:
    """Whether targets [B, T] are the next ones of tokens [B, T], wherever something is asked and a token follows.

    Told from the data, because one task may have batches of both kinds. Answers that agree with what follows by chance
    alone do so in all places of a batch as good as never.
    """
    if targets.ndim != 2:
        return False
    compared = targets[:, :-1] != IGNORED
    return bool(compared.any() and (targets[:, :-1] == tokens[:, 1:])[compared].all())


def canvas(tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sequences [B, T + 1] whose next tokens are the targets [B, T], and which of their tokens are asked for.

    Where the last target asks for nothing, the token behind the sequence is 0.
    """
    last = targets[:, -1:]
    asked = torch.cat((torch.zeros_like(last, dtype=torch.bool), targets != IGNORED), dim=1)
    return torch.cat((tokens, last.clamp(min=0)), dim=1), asked
