"""Which heads of an attention a token uses, and with which weights.

Of H heads the first S serve every token, weighted by S softmax(W_s x); of the others the K with the largest
p = softmax(W_r x) do, weighted by K p / (sum of the K). Where there are both, each kind is multiplied by its part of
2 softmax(W x). Heads that a token does not use have weight zero. Weights of heads that are alike are one, so that a
layer begins as large as one without a router.
Source: Jin et al., MoH (arXiv 2410.11842), section 3.2, where weights are not brought to a sum, nor to a mean of one.
"""

import torch
from torch import Tensor, nn

from nas.context import Context
from nas.layers.linear import Linear

BALANCE_WEIGHT = 0.01
"""Of the loss that keeps heads about equally busy, as published (section 4.1)."""


class HeadRouter(nn.Module):
    """`proj` gives the scores of all heads, and behind them, where some serve every token, those of the two kinds."""

    def __init__(self, d_model: int, *, heads: int, always: int, active: int) -> None:
        super().__init__()
        self.always, self.routed, self.chosen = always, heads - always, active - always
        self.proj = Linear(d_model, heads + (2 if always else 0))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x [..., d] -> weights [..., H]; in training a loss joins those of the context."""
        of_always, of_routed, of_kinds = (
            self.proj(x).float().split((self.always, self.routed, 2 if self.always else 0), dim=-1)
        )
        shares = of_routed.softmax(-1)
        used = torch.zeros_like(shares).scatter(-1, shares.topk(self.chosen, dim=-1).indices, 1.0)
        if self.training:
            context.losses.append(BALANCE_WEIGHT * self._imbalance(shares, used))
        weights = shares * used
        weights = self.chosen * weights / weights.sum(-1, keepdim=True)
        if self.always:
            kinds = 2 * of_kinds.softmax(-1)
            weights = torch.cat((kinds[..., :1] * self.always * of_always.softmax(-1), kinds[..., 1:] * weights), -1)
        return weights.to(x.dtype)

    def _imbalance(self, shares: Tensor, used: Tensor) -> Tensor:
        """Heads times the sum of how often each is used times its mean share: one where all are used alike."""
        often, mean = (part.flatten(0, -2).mean(0) for part in (used / self.chosen, shares))
        return self.routed * (often * mean).sum()
