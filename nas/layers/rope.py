"""Rotary positions: each pair of channels of a query or key is turned by an angle that grows with its position.

Pairs are (i, i + D/2), the layout of Llama, or (2i, 2i + 1) where interleaved; of a head, a leading fraction of the
channels is turned. Source: Su et al. (arXiv 2104.09864), section 3.2; fractions: GPT-NeoX (arXiv 2204.06745), section
2.1; how long contexts stretch the angles: `nas.architecture.positions`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import rope
from nas.architecture.positions import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from nas.context import Context


@dataclass(frozen=True, kw_only=True)
class Rope:
    """What the angles depend on; size is the number of channels that are turned, an even one."""

    size: int
    base: float
    interleaved: bool = False
    scaling: RopeScaling | None = None


def rotate(x: Tensor, angles: Rope, context: Context) -> Tensor:
    """Turn the first channels of x [B, T, H, D] whose first token stands at the context's clock; keeps the type of x.

    The tables of a pass are computed by the first layer that needs them and shared through the context.
    """
    tokens = x.shape[1]
    key = (angles, tokens, x.device)
    if key not in context.shared:
        context.shared[key] = _tables(angles, context.clock_on(x.device), tokens)
    cos, sin = context.shared[key]
    return rope(x, cos, sin, interleaved=angles.interleaved)


def _tables(angles: Rope, first: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """cos and sin [T, size / 2] in float32, of the positions from `first` [] on."""
    positions = (first + torch.arange(tokens, device=first.device)).float()
    turned = torch.outer(positions, frequencies(angles, first.device))
    scale = 1.0 if angles.scaling is None else angles.scaling.scale_of_tables()
    return turned.cos() * scale, turned.sin() * scale


def frequencies(angles: Rope, device: torch.device) -> Tensor:
    """Radians per token of each pair, [size / 2] in float32."""
    exponents = torch.arange(0, angles.size, 2, dtype=torch.float32, device=device) / angles.size
    plain, scaling = angles.base**-exponents, angles.scaling
    if scaling is None:
        return plain
    kept = _kept_share(plain, angles, scaling)
    return plain * (kept + (1 - kept) / scaling.factor)


def _kept_share(plain: Tensor, angles: Rope, scaling: RopeScaling) -> Tensor | float:
    """How much of each frequency stays as it is; the rest is divided by the factor."""
    if isinstance(scaling, LinearScaling):
        return 0.0
    if isinstance(scaling, Llama3Scaling):
        turns = plain * scaling.original_length / (2 * math.pi)
        return ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    assert isinstance(scaling, YarnScaling), f"{scaling.kind} has no formula here"

    def channel(turns: float) -> float:
        """Of the pair that turns so often within the original length."""
        return angles.size * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(angles.base))

    first, last = channel(scaling.fast), channel(scaling.slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, angles.size - 1)
    pairs = torch.arange(angles.size // 2, dtype=torch.float32, device=plain.device)
    return 1 - ((pairs - first) / max(last - first, 1e-3)).clamp(0, 1)
