"""The definition of the vector recurrence: one token after the other, in float32, differentiated by autograd."""

import torch
from torch import Tensor


def vector_recurrence(x: Tensor, log_decay: Tensor, initial_state: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """h [B, T, D] in the type of x, state [B, D] in float32. Shapes as at the public door."""
    state = initial_state
    outputs: list[Tensor] = []
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        h, state = vector_recurrence_step(x[:, t], log_decay[:, t], state)
        outputs.append(h)
    return torch.stack(outputs[::-1] if reverse else outputs, dim=1), state


def vector_recurrence_step(x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: x, log_decay and the state are [B, D]."""
    state = torch.exp(log_decay.float()) * state + x.float()
    return state.to(x.dtype), state
