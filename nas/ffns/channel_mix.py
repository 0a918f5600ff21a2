"""The channel mixing of RWKV: squared ReLU between two matrices, over a token mixed with the one before it.

    y = W_out relu(W_in k)²,  and with a receptance times σ(W_r r);  k and r: x plus a learned share of the step back
Source: Peng et al. (arXiv 2305.13048), section 3.1 (with receptance); arXiv 2503.14456, section 4.2 (without).
"""

import torch
from torch import Tensor, nn

from nas.architecture.ffns import RwkvChannelMix
from nas.context import Context
from nas.ffns.base import Ffn, FfnState
from nas.layers.activation import relu2
from nas.layers.linear import Linear
from nas.layers.token_shift import before, initial_shares


class ChannelMixFfn(Ffn):
    """The rows of `shares` are those of k and, with a receptance, r. The state is {"last": the last input [B, d]}."""

    remembers = True

    def __init__(self, options: RwkvChannelMix, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.shares = nn.Parameter(initial_shares(d_model, *(0.5, 0.5) if options.receptance else (0.25,)))
        self.in_proj = Linear(d_model, options.d_ff)
        self.receptance = Linear(d_model, d_model) if options.receptance else None
        self.out_proj = Linear(options.d_ff, d_model)

    def forward(self, x: Tensor, context: Context | None = None, state: FfnState | None = None) -> Tensor:
        last = None if state is None else state["last"]
        if x.ndim == 2:
            previous = torch.zeros_like(x) if last is None else last.to(x.dtype)
        else:
            previous = before(x, last)
        step = previous - x
        if last is not None:
            last.copy_(x if x.ndim == 2 else x[:, -1])
        k, *r = (x + step * share for share in self.shares.to(x.dtype))
        y = self.out_proj(relu2(self.in_proj(k)))
        return y if self.receptance is None else self.receptance(r[0]).sigmoid() * y

    def init_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> FfnState:
        return {"last": torch.zeros(batch, self.d_model, dtype=dtype, device=device)}

    def flops(self, tokens: int) -> int:
        layers = [layer for layer in (self.in_proj, self.receptance, self.out_proj) if layer is not None]
        return 2 * tokens * sum(layer.weight.numel() for layer in layers)

    def scale_output(self, factor: float) -> None:
        with torch.no_grad():
            self.out_proj.weight.mul_(factor)
