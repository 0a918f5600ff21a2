"""Rotary positions: each pair of channels of a query or key is turned by an angle that grows with its position.

Pairs are (i, i + D/2), the layout of Llama, or (2i, 2i + 1) where interleaved; of a head, a leading fraction of the
channels is turned. Source: Su et al. (arXiv 2104.09864), section 3.2; fractions: GPT-NeoX (arXiv 2204.06745), section
2.1; how long contexts stretch the angles: `nas.architecture.positions`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.architecture.positions import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from nas.context import Context


@dataclass(frozen=True, kw_only=True)
class Rope:
    """What the angles depend on; size is the number of channels that are turned, an even one."""

    size: int
    base: float
    interleaved: bool = False
    scaling: RopeScaling | None = None


def rotate(x: Tensor, rope: Rope, context: Context) -> Tensor:
    """Turn the first channels of x [B, T, H, D] whose first token stands at `context.position`; keeps the type of x.

    The tables of a pass are computed by the first layer that needs them and shared through the context.
    """
    tokens = x.shape[1]
    key = (rope, tokens, x.device)
    if key not in context.shared:
        context.shared[key] = _tables(rope, context.position, tokens, x.device)
    cos, signed_sin = context.shared[key]
    if rope.size == x.shape[-1]:
        return _turn(x, cos, signed_sin, rope.interleaved)
    turned = _turn(x[..., : rope.size], cos, signed_sin, rope.interleaved)
    return torch.cat((turned, x[..., rope.size :]), dim=-1)


def _turn(x: Tensor, cos: Tensor, signed_sin: Tensor, interleaved: bool) -> Tensor:
    if interleaved:
        partner = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    else:
        partner = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cos, partner, signed_sin).to(x.dtype)


def _tables(rope: Rope, first: int, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [T, 1, size] in float32; sin of the first of each pair is negated: turning is one multiply-add."""
    positions = torch.arange(first, first + tokens, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies(rope, device))
    scale = 1.0 if rope.scaling is None else rope.scaling.scale_of_tables()
    cos, sin = angles.cos() * scale, angles.sin() * scale
    if rope.interleaved:
        return cos.repeat_interleave(2, 1).unsqueeze(1), torch.stack((-sin, sin), 2).flatten(1).unsqueeze(1)
    return torch.cat((cos, cos), 1).unsqueeze(1), torch.cat((-sin, sin), 1).unsqueeze(1)


def frequencies(rope: Rope, device: torch.device) -> Tensor:
    """Radians per token of each pair, [size / 2] in float32."""
    exponents = torch.arange(0, rope.size, 2, dtype=torch.float32, device=device) / rope.size
    plain, scaling = rope.base**-exponents, rope.scaling
    if scaling is None:
        return plain
    kept = _kept_share(plain, rope, scaling)
    return plain * (kept + (1 - kept) / scaling.factor)


def _kept_share(plain: Tensor, rope: Rope, scaling: RopeScaling) -> Tensor | float:
    """How much of each frequency stays as it is; the rest is divided by the factor."""
    if isinstance(scaling, LinearScaling):
        return 0.0
    if isinstance(scaling, Llama3Scaling):
        turns = plain * scaling.original_length / (2 * math.pi)
        return ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    assert isinstance(scaling, YarnScaling), f"{scaling.kind} has no formula here"

    def channel(turns: float) -> float:
        """Of the pair that turns so often within the original length."""
        return rope.size * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(rope.base))

    first, last = channel(scaling.fast), channel(scaling.slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.size - 1)
    pairs = torch.arange(rope.size // 2, dtype=torch.float32, device=plain.device)
    return 1 - ((pairs - first) / max(last - first, 1e-3)).clamp(0, 1)
