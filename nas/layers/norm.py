"""Root-mean-square normalisation, whole rows and per head, with or without the gates that mixers put around it.

Source: Zhang and Sennrich (arXiv 1910.07467), equation 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al., arXiv 1607.06450)."""

    def __init__(self, size: int, *, eps: float = NORM_EPS, bias: bool = False) -> None:
        super().__init__()
        self.size = size
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, (self.size,), self.weight.to(x.dtype), bias, self.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight over the last axis; the result has the type of x."""

    def __init__(self, size: int, *, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.size = size
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.size,), self.weight.to(x.dtype), self.eps)


def l2_normalise(x: Tensor) -> Tensor:
    """x / sqrt(sum(x²) + eps) over the last axis, in the type of x."""
    size = x.shape[-1]
    return F.rms_norm(x, (size,), eps=NORM_EPS / size) * size**-0.5
