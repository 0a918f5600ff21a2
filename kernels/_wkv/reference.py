"""The definition of WKV: one token after the other, in float32, differentiated by autograd."""

import torch
from torch import Tensor

EMPTY = -1e38  # the shift of a state that has seen nothing: finite, so that differences of two of them are zero


def wkv(k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """y [B, T, D] in the type of v, state [B, 3, D] in float32. Shapes as at the public door."""
    state = initial_state
    outputs: list[Tensor] = []
    for t in range(k.shape[1]):
        y, state = wkv_step(k[:, t], v[:, t], w, u, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def wkv_step(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: k and v are [B, D], the state is [B, 3, D]."""
    key, value = k.float(), v.float()
    a, b, m = state.unbind(1)
    shift = torch.maximum(m, u + key).detach()
    past, own = torch.exp(m - shift), torch.exp(u + key - shift)
    y = (past * a + own * value) / (past * b + own)
    shift = torch.maximum(m + w, key).detach()
    past, own = torch.exp(m + w - shift), torch.exp(key - shift)
    return y.to(v.dtype), torch.stack((past * a + own * value, past * b + own, shift), dim=1)
