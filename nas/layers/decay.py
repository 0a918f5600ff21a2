"""How fast a recurrence forgets at the start of training: the published initialisation of A and of the step size.

It matters as much as the operator: heads must span memories from a few tokens to thousands.
Source: Mamba (arXiv 2312.00752), section 3.6; Mamba-2 (arXiv 2405.21060) and its code.
"""

import math

import torch
from torch import Tensor

STEP_RANGE = (1e-3, 1e-1)
SMALLEST_STEP = 1e-4


def initial_step_bias(count: int) -> Tensor:
    """Biases b with softplus(b) log-uniform in [0.001, 0.1]."""
    low, high = (math.log(bound) for bound in STEP_RANGE)
    step = torch.empty(count).uniform_(low, high).exp().clamp(min=SMALLEST_STEP)
    return step + torch.log(-torch.expm1(-step))


def initial_log_rate(count: int, low: float) -> Tensor:
    """log A with A uniform in [low, 16], one per head."""
    return torch.empty(count).uniform_(low, 16.0).log()


def retention_decay(heads: int, device: torch.device) -> Tensor:
    """log(1 - 2^(-5 - h)) for heads h = 0, 1, …: [H] in float32 (Sun et al., RetNet, arXiv 2307.08621, section 2.2)."""
    return torch.log1p(-torch.exp2(-5.0 - torch.arange(heads, device=device, dtype=torch.float32)))


def slope_decay(heads: int, device: torch.device) -> Tensor:
    """-2^(-8 (h + 1) / H) for heads h: [H] in float32 (Qin et al., Lightning Attention-2, arXiv 2401.04658; ALiBi)."""
    return -torch.exp2(-8.0 * (torch.arange(heads, device=device, dtype=torch.float32) + 1) / heads)
