"""One token over a few listed blocks of a cache: their slots are gathered, as many at every position.

Where the token stands is read on the device and hides what lies behind it, so that one CUDA graph of a step serves
every position, and what the step reads follows the lists, not the room that a cache has.
"""

import torch
from torch import Tensor

from kernels import attention_step


def attend_to_blocks(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, blocks: Tensor, position: Tensor, *, block_size: int = 1
) -> Tensor:
    """Attention of one token to those of its blocks up to itself: [B, Hq, D] in and out.

    q: queries of the token at `position` [] int64, on its device. k_cache, v_cache [B, S, Hkv, D]: token p in slot p,
    the new one among them. blocks [B or 1, Hkv or 1, n]: of `block_size` tokens, -1 for none, and none twice.
    """
    slots, seen = slots_of(blocks, position, k_cache.shape[1], block_size)
    k, v = (gathered(cache, slots).to(q.dtype) for cache in (k_cache, v_cache))
    return attention_step(q, k, v, slots.shape[2], keep=seen.expand(q.shape[0], k_cache.shape[2], -1))


def slots_of(blocks: Tensor, position: Tensor, slots: int, block_size: int = 1) -> tuple[Tensor, Tensor]:
    """(slots of a cache of so many, which of them are seen), each [.., .., n block_size], of blocks [.., .., n]."""
    within = torch.arange(block_size, device=blocks.device)
    # A block of -1 lies before the first slot.
    listed = (blocks.long().unsqueeze(-1) * block_size + within).flatten(-2)
    return listed.clamp(0, slots - 1), (listed >= 0) & (listed <= position)


def gathered(cache: Tensor, slots: Tensor) -> Tensor:
    """cache [B, S, Hkv, D] at slots [B or 1, Hkv or 1, n]: [B, n, Hkv, D]."""
    if slots.shape[:2] == (1, 1):  # whole tokens
        return cache.index_select(1, slots.flatten())
    # Rows of one head, each copied whole.
    batch, room, heads, _ = cache.shape
    sequence, head = (torch.arange(n, device=cache.device) for n in (batch, heads))
    row = (sequence.view(-1, 1, 1) * room + slots.transpose(1, 2)) * heads + head  # [B, n, Hkv]
    return cache.flatten(0, 2).index_select(0, row.flatten()).unflatten(0, row.shape)
