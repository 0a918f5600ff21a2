"""The activations an FFN may name."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from nas.architecture.ffns import Activation


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al., Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "relu2": relu2}
