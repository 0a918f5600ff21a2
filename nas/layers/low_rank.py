"""A map in two matrices of a low rank, with an activation between them (RWKV-6, arXiv 2404.05892, equation 12)."""

from typing import Literal

import torch
from torch import Tensor, nn

from nas.layers.linear import Linear


class LowRank(nn.Module):
    """up(activation(down x)) + bias, where there is one."""

    def __init__(
        self,
        in_features: int,
        rank: int,
        out_features: int,
        *,
        activation: Literal["tanh", "sigmoid"] | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.down_proj = Linear(in_features, rank)
        self.up_proj = Linear(rank, out_features)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.down_proj(x)
        if self.activation is not None:
            inner = torch.tanh(inner) if self.activation == "tanh" else torch.sigmoid(inner)
        y = self.up_proj(inner)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def flops(self, tokens: int) -> int:
        """Two per multiply-accumulate."""
        return 2 * tokens * (self.down_proj.weight.numel() + self.up_proj.weight.numel())
