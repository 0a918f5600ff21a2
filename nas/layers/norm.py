"""Root-mean-square normalisation, whole rows and per head, with or without the gates that mixers put around it.

Source: Zhang and Sennrich (arXiv 1910.07467), equation 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import l2_norm, rms_norm

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
    """x / sqrt(mean(x²) + eps) * weight over the last axis, or within each of `groups` equal parts of it.

    With a gate z: norm(x) silu(z), or norm(x silu(z)) with `gate_first`. The result has the type of x.
    """

    def __init__(self, size: int, *, eps: float = NORM_EPS, groups: int = 1) -> None:
        super().__init__()
        self.size = size
        self.eps = eps
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, *, gate: Tensor | None = None, gate_first: bool = False) -> Tensor:
        y = rms_norm(
            x, self._weight_for(x), eps=self.eps, gate=gate, gate_first=gate_first, group_size=self._group_size
        )
        assert isinstance(y, Tensor), "without a residual there is no sum"
        return y

    def of_sum(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual), on a GPU with one pass over memory less."""
        normed, total = rms_norm(x, self._weight_for(x), eps=self.eps, residual=residual, group_size=self._group_size)
        return normed, total

    @property
    def _group_size(self) -> int | None:
        return None if self.groups == 1 else self.size // self.groups

    def _weight_for(self, x: Tensor) -> Tensor:
        return self.weight if self.weight.dtype == torch.float32 else self.weight.to(x.dtype)


def sum_and_norm(norm: nn.Module, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """(norm(x + residual), x + residual)."""
    if isinstance(norm, RMSNorm):
        return norm.of_sum(x, residual)
    total = residual + x
    return norm(total), total


def l2_normalise(x: Tensor) -> Tensor:
    """x / sqrt(sum(x²) + eps) over the last axis, in the type of x."""
    return l2_norm(x, eps=NORM_EPS)


def normalised(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, in the type of x: RMSNorm without a weight."""
    y = rms_norm(x, eps=eps)
    assert isinstance(y, Tensor), "without a residual there is no sum"
    return y
