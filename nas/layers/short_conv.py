"""The short causal convolution in front of a recurrence: each channel mixes its last few tokens, then SiLU.

Source: Fu et al., H3 (arXiv 2212.14052), section 3.1; with SiLU after it: Mamba (arXiv 2312.00752), section 3.4.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import short_convolution, short_convolution_step


class ShortConv(nn.Module):
    """SiLU(depthwise causal convolution) over [B, T, C]; of size 0, SiLU alone. Without an activation, the sum itself.

    The state is the last `size - 1` inputs, [B, size - 1, C]. Initialised uniformly in ±1/sqrt(size), as the published
    code does (the default of a depthwise convolution in PyTorch).
    """

    def __init__(self, channels: int, size: int, *, bias: bool, activation: Literal["silu"] | None = "silu") -> None:
        super().__init__()
        self.activation: Literal["silu"] | None = activation
        self.channels = channels
        self.size = size
        self.filter = nn.Parameter(torch.empty(channels, size)) if size else None
        self.bias = nn.Parameter(torch.empty(channels)) if size and bias else None
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(size**-0.5), size**-0.5)

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[B, max(size - 1, 0), C]: nothing was read yet."""
        return torch.zeros(batch, max(self.size - 1, 0), self.channels, dtype=dtype, device=device)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Returns (y [B, T, C], the state after the last token, or None if none was given)."""
        if self.filter is None:
            return F.silu(x), state
        if state is None:
            y = short_convolution(x, self.filter, bias=self.bias, activation=self.activation)
            assert isinstance(y, Tensor), "without return_state there is no state"
            return y, None
        y, last = short_convolution(
            x,
            self.filter,
            bias=self.bias,
            activation=self.activation,
            initial_state=state.to(x.dtype),
            return_state=True,
        )
        return y, last.to(state.dtype)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token: x [B, C]; returns (y [B, C], the new state)."""
        if self.filter is None:
            return F.silu(x), state
        y, new = short_convolution_step(x, state.to(x.dtype), self.filter, bias=self.bias, activation=self.activation)
        return y, new.to(state.dtype)

    def flops(self, tokens: int) -> int:
        """Two per multiply-accumulate."""
        return 2 * tokens * self.channels * self.size
