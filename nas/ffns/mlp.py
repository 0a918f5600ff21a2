"""Two matrices with an activation between them: down(activation(up x)).

Source: Vaswani et al. (arXiv 1706.03762), section 3.3; with squared ReLU: So et al., Primer (arXiv 2109.08668).
"""

import torch
from torch import Tensor

from nas.architecture.ffns import Activation, Mlp
from nas.context import Context
from nas.ffns.base import Ffn
from nas.layers.activation import ACTIVATIONS
from nas.layers.adapter import adapted
from nas.layers.linear import Linear


class MlpFfn(Ffn):
    """`in_proj` goes up, `out_proj` down."""

    def __init__(self, options: Mlp, d_model: int) -> None:
        super().__init__()
        self.activation: Activation = options.activation
        self.in_proj = Linear(d_model, options.d_ff, bias=options.bias)
        self.out_proj = Linear(options.d_ff, d_model, bias=options.bias)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        inner = adapted(self.in_proj(x), x, context and context.ffn_adapter)
        return self.out_proj(ACTIVATIONS[self.activation](inner))

    def flops(self, tokens: int) -> int:
        return 2 * tokens * (self.in_proj.weight.numel() + self.out_proj.weight.numel())

    def scale_output(self, factor: float) -> None:
        with torch.no_grad():
            self.out_proj.weight.mul_(factor)
