"""Keys and values of tokens already read, in buffers of fixed size that are written in place.

With a window the buffer is a ring: the token at position p lies in slot p mod S. Softmax does not mind the order.
"""

import torch
from torch import Tensor


def empty_cache(
    batch: int, slots: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """{"k", "v"}, each [B, S, Hkv, D]."""
    shape = (batch, slots, heads, head_dim)
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name in ("k", "v")}


def extend(cache: Tensor, new: Tensor, position: int) -> Tensor:
    """Write new [B, T, H, D], the tokens from `position` on; returns the tokens at hand in order, the new ones last.

    At hand are all tokens while they fit the buffer; after that the last S - 1 earlier ones and the new ones, which is
    all that a window of S keys can see.
    """
    slots, tokens = cache.shape[1], new.shape[1]
    end = position + tokens
    if end <= slots:
        cache[:, position:end] = new
        return cache[:, :end].to(new.dtype)
    kept = min(position, slots - 1)
    earlier = torch.arange(position - kept, position, device=cache.device) % slots
    at_hand = torch.cat((cache[:, earlier].to(new.dtype), new), dim=1)
    written = min(tokens, slots)
    cache[:, torch.arange(end - written, end, device=cache.device) % slots] = new[:, tokens - written :].to(cache.dtype)
    return at_hand


def pairs_in_window(tokens: int, position: int, window: int | None) -> int:
    """How many (query, key) pairs `tokens` queries from `position` on see, each itself and at most `window` keys."""

    def up_to(n: int) -> int:
        full = n if window is None else min(n, window)
        return full * (full + 1) // 2 + (n - full) * full

    return up_to(position + tokens) - up_to(position)
