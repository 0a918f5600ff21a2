"""The activations an FFN may name."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.architecture.ffns import Activation


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al., Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its approximation with a hyperbolic tangent (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), GELU approximated by a sigmoid (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu2": relu2,
}
