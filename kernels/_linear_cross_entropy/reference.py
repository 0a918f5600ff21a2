"""The definition of the loss: all logits at once, in float32, differentiated by autograd."""

import torch
from torch import Tensor


def summed_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, soft_cap: float | None, factors: Tensor | None
) -> Tensor:
    """The sum over the tokens that ask for something; x [N, d], targets [N], factors [N]."""
    asked = targets != ignore_index
    logits = x.float() @ weight.float().t()
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    of_target = logits.gather(1, torch.where(asked, targets, 0).unsqueeze(1)).squeeze(1)
    losses = torch.where(asked, logits.exp().sum(1).log() - of_target, 0.0)
    return (losses if factors is None else losses * factors).sum()
