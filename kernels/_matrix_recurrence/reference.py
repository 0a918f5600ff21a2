"""The definition of the matrix recurrence: one token after the other, in float32.

Every other implementation is tested against this file; it is written to be checked by eye, not to be fast.
"""

import torch
from torch import Tensor

from kernels._matrix_recurrence.options import Options


def recurrence_step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, options: Options, scale: float
) -> tuple[Tensor, Tensor]:
    """One token: decay, erase, write, read. Shapes as in `matrix_recurrence_step`, arguments checked."""
    log_decay, beta, a, b, bonus = options
    group = v.shape[1] // q.shape[1]
    q_heads = q.float().repeat_interleave(group, dim=1) * scale
    k_heads = k.float().repeat_interleave(group, dim=1)
    before, written = state, v.float()
    if log_decay is not None:
        decay = log_decay.float().exp()
        state = state * (decay[..., None] if decay.ndim == 3 else decay[..., None, None])
    if beta is not None:
        recalled = torch.einsum("bhkv,bhk->bhv", state, k_heads)
        written = beta.float()[..., None] * (written - recalled)
    if a is not None and b is not None:
        recalled = torch.einsum("bhkv,bhk->bhv", before, a.float())
        state = state + b.float()[..., :, None] * recalled[..., None, :]
    state = state + k_heads[..., :, None] * written[..., None, :]
    if bonus is None:
        output = torch.einsum("bhkv,bhk->bhv", state, q_heads)
    else:
        own = (q_heads * bonus.float() * k_heads).sum(-1, keepdim=True)
        output = torch.einsum("bhkv,bhk->bhv", before, q_heads) + own * v.float()
    return output.to(v.dtype), state


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, options: Options, initial_state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """All tokens; returns the outputs [B, T, Hv, V] in the dtype of v and the last state [B, Hv, K, V]."""
    batch, length, heads, value_size = v.shape
    state = initial_state
    if state is None:
        state = torch.zeros(batch, heads, q.shape[-1], value_size, device=v.device)
    outputs = []
    for t in range(length):
        output, state = recurrence_step(q[:, t], k[:, t], v[:, t], state, options.at(t), scale)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state
