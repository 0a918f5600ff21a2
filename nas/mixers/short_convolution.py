"""A short convolution between two gates: y = W_o (C * conv(B * x)) with B, C, x = W_i input, all by channel.

Source: Liquid AI, LFM2 (arXiv 2511.23404), section 2; the gates are those of H3 (arXiv 2212.14052), section 3.1.
"""

import torch
from torch import Tensor

from nas.architecture.mixers import ShortConvolution
from nas.context import Context
from nas.layers.linear import Linear
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops


class ShortConvolutionMixer(Mixer):
    """`in_proj` gives B, C and x, in this order. The state is the last inputs of the convolution."""

    def __init__(self, options: ShortConvolution, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.in_proj = Linear(d_model, 3 * d_model, bias=options.bias)
        self.conv = ShortConv(d_model, options.conv_size, bias=options.bias, activation=None)
        self.out_proj = Linear(d_model, d_model, bias=options.bias)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        B, C, inputs = self.in_proj(x).chunk(3, dim=-1)
        mixed, last = self.conv(B * inputs, None if state is None else state["conv"])
        return self.out_proj(C * mixed), None if last is None else {"conv": last}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        B, C, inputs = self.in_proj(x).chunk(3, dim=-1)
        mixed, last = self.conv.step(B * inputs, state["conv"])
        return self.out_proj(C * mixed), {"conv": last}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        return {"conv": self.conv.init_state(batch, dtype, device)}

    def flops(self, tokens: int, context_len: int) -> int:
        return linear_flops(tokens, self.in_proj, self.out_proj) + self.conv.flops(tokens)
