"""What mixers with a matrix state share: the state beside the short convolution, and the count of the recurrence."""

import torch

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


def recurrence_flops(tokens: int, heads: int, key_size: int, value_size: int, products: int) -> int:
    """`products` multiply-accumulates per token and entry of the state: write and read are 2, the delta rule adds 1."""
    return 2 * products * tokens * heads * key_size * value_size
