"""One token over a few listed blocks of a cache, as many at every position.

How many tokens there are is read on the device and hides what lies behind them, so that one CUDA graph of a step serves
every position, and what the step reads follows the lists, not the room that a cache has.
"""

import torch
from torch import Tensor

from kernels import attention_step


def attend_to_blocks(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, blocks: Tensor, length: Tensor, *, block_size: int = 1
) -> Tensor:
    """Attention of one token to those of its blocks up to itself: [B, Hq, D] in and out.

    q: queries of the last of `length` tokens, [] int64 on the device. k_cache, v_cache [B, S, Hkv, D]: token p in slot
    p, the new one among them. blocks [B or 1, Hkv or 1, n]: of `block_size` tokens, -1 for none, and none twice.
    """
    if block_size > 1:  # those of block -1 lie before the first slot
        blocks = (blocks.unsqueeze(-1) * block_size + torch.arange(block_size, device=blocks.device)).flatten(-2)
    return attention_step(q, k_cache.to(q.dtype), v_cache.to(q.dtype), length, listed=blocks)
