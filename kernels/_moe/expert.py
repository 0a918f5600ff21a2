"""What an expert computes between its two products, in PyTorch: the activation, the gate and its limits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu2": _relu2,
}


@dataclass(frozen=True)
class Expert:
    """The options of `kernels.moe_ffn`, checked; see there."""

    activation: str
    gated: bool
    clamp: float | None
    up_offset: float

    def hidden(self, pre: Tensor) -> Tensor:
        """What goes into the second product, [..., I], from what came out of the first, [..., 2 I] where gated."""
        activation = ACTIVATIONS[self.activation]
        if not self.gated:
            return activation(pre)
        gate, up = pre.chunk(2, dim=-1)
        if self.clamp is not None:
            gate, up = gate.clamp(max=self.clamp), up.clamp(-self.clamp, self.clamp)
        return activation(gate) * (up + self.up_offset if self.up_offset else up)
