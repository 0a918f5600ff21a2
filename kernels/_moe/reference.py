"""The definition of a mixture of experts: token by token and choice by choice, in float32."""

import torch
from torch import Tensor

from kernels._moe.expert import Expert
from kernels._moe.portable import check_range


def moe_ffn(
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_index: Tensor,
    expert_weight: Tensor,
    b_in: Tensor | None,
    b_out: Tensor | None,
    expert: Expert,
) -> Tensor:
    """See `kernels.moe_ffn`."""
    check_range(expert_index, w_in.shape[0])
    rows = []
    for token, choices, weights in zip(x.float(), expert_index.tolist(), expert_weight.float(), strict=True):
        row = torch.zeros_like(token)
        for e, weight in zip(choices, weights, strict=True):
            if e >= 0:
                pre = token @ w_in[e].float() + (0 if b_in is None else b_in[e].float())
                y = expert.hidden(pre) @ w_out[e].float() + (0 if b_out is None else b_out[e].float())
                row = row + weight * y
        rows.append(row)
    return torch.stack(rows).to(x.dtype) if rows else torch.zeros_like(x)
