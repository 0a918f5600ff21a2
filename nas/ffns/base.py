"""What every FFN can do: map each token by itself, and say what that costs."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from nas.context import Context


class Ffn(nn.Module, ABC):
    """A map of each token by itself."""

    @abstractmethod
    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """x [..., d] -> y [..., d]; in training, auxiliary losses are appended to `context.losses`."""

    @abstractmethod
    def flops(self, tokens: int) -> int:
        """Floating-point operations for `tokens` tokens, two per multiply-accumulate; activations are not counted."""

    @abstractmethod
    def scale_output(self, factor: float) -> None:
        """Shrink what this FFN adds to the residual stream at the start of training."""

    def active_parameters(self) -> int:
        """Parameters that one token uses."""
        return sum(parameter.numel() for parameter in self.parameters())
