"""The activations of a gated expert, in PyTorch."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "relu2": _relu2}
