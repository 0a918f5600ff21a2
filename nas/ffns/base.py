"""What every FFN can do: map each token, most of them by itself, and say what that costs."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from nas.context import Context

FfnState = dict[str, Tensor]


class Ffn(nn.Module, ABC):
    """A map of each token by itself; one that `remembers` also sees what its state keeps of earlier tokens.

    Such a one takes a third argument: the state, which it brings up to date in place; without one a sequence begins.
    """

    remembers: bool = False

    @abstractmethod
    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """x [..., d] -> y [..., d]; in training, auxiliary losses are appended to `context.losses`."""

    @abstractmethod
    def flops(self, tokens: int) -> int:
        """Floating-point operations for `tokens` tokens, two per multiply-accumulate; activations are not counted."""

    @abstractmethod
    def scale_output(self, factor: float) -> None:
        """Shrink what this FFN adds to the residual stream at the start of training."""

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> FfnState:
        """The state before the first token, cached activations in `dtype`; empty for what remembers nothing."""
        return {}

    def state_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the state of one sequence."""
        return sum(tensor.nbytes for tensor in self.init_state(1, dtype, torch.device("meta")).values())

    def active_parameters(self) -> int:
        """Parameters that one token uses."""
        return sum(parameter.numel() for parameter in self.parameters())
