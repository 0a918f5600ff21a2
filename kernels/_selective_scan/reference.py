"""The definition of the selective scan: one token after the other, in float32, differentiated by autograd."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, T, Dm] in the type of u, final state [B, Dm, N] in float32. Shapes as at the public door."""
    state = initial_state.float()
    outputs = []
    for t in range(u.shape[1]):
        y, state = selective_scan_step(
            u[:, t], delta[:, t], A, B[:, t], C[:, t], state, D, None if z is None else z[:, t]
        )
        outputs.append(y)
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(u)), state


def selective_scan_step(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, D: Tensor | None, z: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One token: u, delta, z are [B, Dm], B and C [B, N], state [B, Dm, N]."""
    u_f, delta_f = u.float(), delta.float()
    decay = torch.exp(delta_f[:, :, None] * A.float())
    state = decay * state.float() + (delta_f * u_f)[:, :, None] * B.float()[:, None, :]
    y = (state * C.float()[:, None, :]).sum(-1)
    if D is not None:
        y = y + D.float() * u_f
    if z is not None:
        y = y * F.silu(z.float())
    return y.to(u.dtype), state
