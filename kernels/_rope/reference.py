"""The definition of rotary positions: pair by pair, in float32, differentiated by autograd."""

import torch
from torch import Tensor


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """As at the public door."""
    pairs = cos.shape[-1]
    channels = list(x.float().unbind(-1))
    for pair in range(pairs):
        first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + pairs)
        a, b = channels[first], channels[second]
        c, s = cos[..., pair, None], sin[..., pair, None]  # [..., T, 1], beside heads
        channels[first], channels[second] = a * c - b * s, b * c + a * s
    return torch.stack(channels, dim=-1).to(x.dtype)
