"""What mixers with a matrix state share: the state beside the short convolution, and the count of the recurrence."""

import torch
from torch import Tensor

from kernels import matrix_recurrence
from nas.layers.short_conv import ShortConv
from nas.mixers.base import State


def matrix_state(
    conv: ShortConv | None,
    heads: int,
    key_size: int,
    value_size: int,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
) -> State:
    """{"memory": [B, H, K, V] in float32} and, with a convolution, {"conv": its last inputs}."""
    state: State = {"memory": torch.zeros(batch, heads, key_size, value_size, device=device)}
    if conv is not None:
        state["conv"] = conv.init_state(batch, dtype, device)
    return state


def recurrence_from_start(
    q: Tensor, k: Tensor, v: Tensor, *, log_decay: Tensor, beta: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """`kernels.matrix_recurrence` with nothing before and nothing kept, as in training."""
    o = matrix_recurrence(q, k, v, log_decay=log_decay, beta=beta, scale=scale)
    assert isinstance(o, Tensor), "without return_state there is no state"
    return o


def recurrence_flops(tokens: int, heads: int, key_size: int, value_size: int, products: int) -> int:
    """`products` multiply-accumulates per token and entry of the state: write and read are 2, the delta rule adds 1."""
    return 2 * products * tokens * heads * key_size * value_size
