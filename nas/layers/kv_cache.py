"""Keys and values of tokens already read, in buffers of fixed size that are written in place.

With a window the buffer is a ring behind the slots of the global tokens, the first `num_global` ones, which stay: of S
slots, the token at position p lies in slot p while p < S, and after that in G + (p - G) mod (S - G). Softmax does not
mind the order.
"""

import torch
from torch import Tensor

from nas.context import Context


def empty_cache(
    batch: int, slots: int, heads: int, head_dim: int | tuple[int, int], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """{"k": [B, S, Hkv, D], "v": [B, S, Hkv, Dv]}. head_dim: of both, or of either."""
    sizes = head_dim if isinstance(head_dim, tuple) else (head_dim, head_dim)
    return {
        name: torch.zeros(batch, slots, heads, size, dtype=dtype, device=device)
        for name, size in zip(("k", "v"), sizes, strict=True)
    }


def slot_and_length(context: Context, slots: int, num_global: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the token of a step goes, [1], and how many slots are filled then, [] (where more than S, all are).

    Both are computed on the device from the context's clock, once for all layers with such a cache.
    """
    key = ("slot and length", slots, num_global, device)
    if key not in context.shared:
        position = context.clock_on(device)
        slot = position % slots if num_global == 0 else _slots(position, slots, num_global)
        context.shared[key] = (slot.reshape(1), position + 1)
    slot, length = context.shared[key]
    return slot, length


def append(cache: Tensor, new: Tensor, slot: Tensor) -> Tensor:
    """Write new [B, H, D], one token, to the slot [1]; returns the whole cache in the type of `new`."""
    write(cache, new, slot)
    return cache.to(new.dtype)


def write(cache: Tensor, new: Tensor, slot: Tensor) -> None:
    """Write new [B, H, D] to the slot [1] of cache [B, S, H, D], in the type of the cache."""
    cache.index_copy_(1, slot, new.unsqueeze(1).to(cache.dtype))


def write_if(condition: Tensor, cache: Tensor, new: Tensor, slot: Tensor) -> None:
    """`write` where the condition [], on the device, holds; else the cache stays, and the slot [] may be none of it."""
    slot = slot.clamp(0, cache.shape[1] - 1).reshape(1)
    write(cache, torch.where(condition, new.to(cache.dtype), cache.index_select(1, slot)[:, 0]), slot)


def extend(cache: Tensor, new: Tensor, position: int, num_global: int = 0) -> Tensor:
    """Write new [B, T, H, D], the tokens from `position` on; returns the tokens at hand in order, the new ones last.

    At hand are all tokens while they fit the buffer; after that the global ones, the last of the others that the ring
    holds but one, and the new ones, which is all that a window as long as the ring can see.
    """
    slots, end = cache.shape[1], position + new.shape[1]
    if end <= slots:
        cache[:, position:end] = new
        return cache[:, :end].to(new.dtype)
    ring = slots - num_global
    held = _ranges(cache.device, (0, min(num_global, position)), (max(num_global, position - ring + 1), position))
    at_hand = torch.cat((cache[:, _slots(held, slots, num_global)].to(new.dtype), new), dim=1)
    kept = _ranges(cache.device, (position, num_global), (max(num_global, position, end - ring), end))
    cache[:, _slots(kept, slots, num_global)] = new[:, kept - position].to(cache.dtype)
    return at_hand


def last_in_ring(cache: Tensor, position: int, count: int) -> Tensor:
    """The last `count` of the `position` tokens read, in order, of a buffer without global ones that holds them."""
    held = torch.arange(position - count, position, device=cache.device)
    return cache[:, _slots(held, cache.shape[1], 0)]


def pairs_in_window(tokens: int, position: int, window: int | None) -> int:
    """How many (query, key) pairs `tokens` queries from `position` on see, each itself and at most `window` keys."""

    def up_to(n: int) -> int:
        full = n if window is None else min(n, window)
        return full * (full + 1) // 2 + (n - full) * full

    return up_to(position + tokens) - up_to(position)


def _slots(positions: Tensor, slots: int, num_global: int) -> Tensor:
    ring = max(slots - num_global, 1)  # no slot of the ring where all tokens that there is room for are global
    return torch.where(positions < num_global, positions, num_global + (positions - num_global) % ring)


def _ranges(device: torch.device, *bounds: tuple[int, int]) -> Tensor:
    return torch.cat([torch.arange(first, max(first, last), device=device) for first, last in bounds])
