"""The gate in PyTorch: an operation for the activation and one for the product, both vectorised on processors."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def glu(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """As at the public door."""
    return _ACTIVATIONS[activation](gate) * up


def _relu2(z: Tensor) -> Tensor:
    return F.relu(z).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": _relu2,
    "sigmoid": torch.sigmoid,
}
