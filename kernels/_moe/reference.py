"""The definition of a mixture of experts: token by token and choice by choice, in float32."""

import torch
from torch import Tensor

from kernels._moe.activations import ACTIVATIONS
from kernels._moe.portable import check_range


def moe_ffn(
    x: Tensor, w_in: Tensor, w_out: Tensor, expert_index: Tensor, expert_weight: Tensor, activation: str
) -> Tensor:
    """See `kernels.moe_ffn`."""
    check_range(expert_index, w_in.shape[0])
    rows = []
    for token, choices, weights in zip(x.float(), expert_index.tolist(), expert_weight.float(), strict=True):
        row = torch.zeros_like(token)
        for expert, weight in zip(choices, weights, strict=True):
            if expert >= 0:
                gate, up = (token @ w_in[expert].float()).chunk(2)
                row = row + weight * ((ACTIVATIONS[activation](gate) * up) @ w_out[expert].float())
        rows.append(row)
    return torch.stack(rows).to(x.dtype) if rows else torch.zeros_like(x)
