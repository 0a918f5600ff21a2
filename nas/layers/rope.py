"""Rotary positions: each pair of channels of a query or key is turned by an angle that grows with its position.

Pairs are (i, i + D/2), the layout of Llama. Source: Su et al. (arXiv 2104.09864), section 3.2.
"""

import torch
from torch import Tensor

from nas.context import Context


def rotate(x: Tensor, base: float, context: Context) -> Tensor:
    """Turn x [B, T, H, D] whose first token stands at `context.position`; D is even. The type of x is kept.

    The tables of a pass are computed by the first layer that needs them and shared through the context.
    """
    tokens, size = x.shape[1], x.shape[3]
    key = ("rope", base, size, tokens, x.device)
    if key not in context.shared:
        context.shared[key] = _tables(context.position, tokens, size, base, x.device)
    cos, signed_sin = context.shared[key]
    return torch.addcmul(x * cos, x.roll(size // 2, dims=-1), signed_sin).to(x.dtype)


def _tables(first: int, tokens: int, size: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [T, 1, D] in float32; the first half of sin is negated, so that turning is one multiply-add."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    positions = torch.arange(first, first + tokens, dtype=torch.float32, device=device)
    angles = torch.outer(positions, base**-exponents)
    sin = angles.sin()
    return torch.cat((angles, angles), 1).cos().unsqueeze(1), torch.cat((-sin, sin), 1).unsqueeze(1)
