"""The matrix recurrence in chunks of PyTorch matrix products: what CPU users train with, on any device.

A chunk of C tokens turns into products of [C, C] and [C, K] matrices, all chunks at once (`chunks.py`); only the state
passes from chunk to chunk in a loop. This file cuts tokens into chunks and puts them together again.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels._matrix_recurrence.chunks import Chunks
from kernels._matrix_recurrence.chunks_backward import run_chunks
from kernels._matrix_recurrence.options import Options


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, options: Options, initial_state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Same contract as `reference.recurrence`, computed in float32."""
    length = v.shape[1]
    # Matrix products below are float32 on purpose; autocast would cast their operands down again.
    with torch.autocast(v.device.type, enabled=False):
        chunk = _chunk_size(length, max(q.shape[-1], v.shape[-1]))
        queries, keys, values = _chunks(q, chunk) * scale, _chunks(k, chunk), _chunks(v, chunk)
        beta, a, b = (
            None if x is None else _chunks(x, chunk)
            for x in (
                None if options.beta is None else options.beta[..., None],
                options.erase_read,
                options.erase_write,
            )
        )
        g = None
        if options.log_decay is not None:
            g = _chunks(_decay_per_token(options.log_decay, v), chunk).cumsum(dim=3)
        bonus = None if options.bonus is None else options.bonus.float()
        outputs, state = run_chunks(Chunks(queries, keys, values, g, beta, a, b, bonus, initial_state))
    outputs = outputs.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length]
    return outputs.to(v.dtype), state


def _decay_per_token(log_decay: Tensor, v: Tensor) -> Tensor:
    """[B, T, Hv, 1 or K] from any of the three shapes."""
    if log_decay.ndim == 1:
        log_decay = log_decay.expand(v.shape[:3])
    return log_decay if log_decay.ndim == 4 else log_decay[..., None]


def _chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, D] -> float32 [B, H, N, C, D]; the last chunk is filled with zeros, which change no state."""
    batch, length, heads, size = x.shape
    x = pad(x.float(), (0, 0, 0, 0, 0, -length % chunk))
    return x.view(batch, -1, chunk, heads, size).permute(0, 3, 1, 2, 4).contiguous()


def _chunk_size(length: int, head_size: int) -> int:
    """32 for small heads and 64 for others, the faster on two CPU cores, or a power of two that holds all tokens."""
    return min(32 if head_size <= 32 else 64, 1 << (length - 1).bit_length())
