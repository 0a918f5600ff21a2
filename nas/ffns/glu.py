"""The gated linear unit: down(activation(gate x) * up x), the gate times a constant where there is one.

Source: Shazeer (arXiv 2002.05202), section 2; with SiLU it is SwiGLU.
"""

import torch
from torch import Tensor

from kernels import glu
from nas.architecture.ffns import Activation, Glu
from nas.context import Context
from nas.ffns.base import Ffn
from nas.layers.activation import quick_gelu
from nas.layers.adapter import adapted
from nas.layers.linear import Linear


class GluFfn(Ffn):
    """The rows of `in_proj` are those of the gate, then of the up projection."""

    def __init__(self, options: Glu, d_model: int) -> None:
        super().__init__()
        self.activation: Activation = options.activation
        self.gate_scale = options.gate_scale
        self.in_proj = Linear(d_model, 2 * options.d_ff, bias=options.bias)
        self.out_proj = Linear(options.d_ff, d_model, bias=options.bias)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        gate, up = adapted(self.in_proj(x), x, context and context.ffn_adapter).chunk(2, dim=-1)
        gate = gate if self.gate_scale == 1 else self.gate_scale * gate
        if self.activation == "quick_gelu":  # the kernel does not know it
            return self.out_proj(quick_gelu(gate) * up)
        return self.out_proj(glu(gate, up, self.activation))

    def flops(self, tokens: int) -> int:
        return 2 * tokens * (self.in_proj.weight.numel() + self.out_proj.weight.numel())

    def scale_output(self, factor: float) -> None:
        with torch.no_grad():
            self.out_proj.weight.mul_(factor)
