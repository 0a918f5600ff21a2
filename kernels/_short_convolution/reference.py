"""The definition of the short convolution: one token after the other, in float32, differentiated by autograd."""

import torch
import torch.nn.functional as F
from torch import Tensor


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """[B, T, D] in the type of x; shapes as at the public door."""
    if state is None:
        state = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2])
    outputs = []
    for t in range(x.shape[1]):
        y, state = short_convolution_step(x[:, t], state, weight, bias, silu)
        outputs.append(y)
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)


def short_convolution_step(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """One token: x [B, D], state [B, W - 1, D]."""
    seen = torch.cat((state, x.unsqueeze(1)), dim=1)
    y = (seen.float() * weight.float().t()).sum(1)
    if bias is not None:
        y = y + bias.float()
    return (F.silu(y) if silu else y).to(x.dtype), seen[:, 1:].clone()
