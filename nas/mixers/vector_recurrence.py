"""A gated linear RNN between two projections: y = W_o (norm(h) ⊙ gate(W_z x)), h ← α ⊙ h + what its cell adds.

With RG-LRU, a convolution and a GELU gate this is the recurrent block of Griffin (De et al., arXiv 2402.19427, section
2.3); cells: `nas.layers.cells`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import vector_recurrence, vector_recurrence_step
from nas.architecture.vector_recurrence import ChannelGate, VectorRecurrence
from nas.context import Context
from nas.layers.activation import gelu_tanh
from nas.layers.cells import build_cell
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops

GATES: dict[ChannelGate, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": gelu_tanh,
    "sigmoid": torch.sigmoid,
}


class VectorRecurrenceMixer(Mixer):
    """`in_proj` gives what the cell takes (the candidate first, then its gates) and the output gate, in this order."""

    def __init__(self, options: VectorRecurrence, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.width = options.num_heads * options.head_dim
        self.gate: ChannelGate = options.gate
        self.cell = build_cell(options.cell, options.num_heads, options.head_dim, options.decay_floor)
        taken = self.cell.inputs * self.width
        self.sizes = (taken, 0 if options.gate == "none" else self.width)
        self.in_proj = Linear(d_model, sum(self.sizes), bias=options.bias)
        self.conv = None
        if options.conv_size:
            self.conv = ShortConv(taken, options.conv_size, bias=options.conv_bias, activation=None)
        self.norm = RMSNorm(self.width, eps=options.norm_eps) if options.output_norm == "full" else None
        self.out_proj = Linear(self.width, d_model, bias=options.bias)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        taken, z = self.in_proj(x).split(self.sizes, dim=-1)
        new: State = {}
        if self.conv is not None:
            taken, last = self.conv(taken, None if state is None else state["conv"])
            new = {} if last is None else {"conv": last}
        added, log_decay = self.cell(taken, starts=context is None or context.position == 0)
        if state is None:
            h = vector_recurrence(added, log_decay)
            assert isinstance(h, Tensor), "without return_state there is no state"
            return self._finish(h, z), None
        h, new["memory"] = vector_recurrence(added, log_decay, initial_state=state["memory"], return_state=True)
        return self._finish(h, z), new

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        taken, z = self.in_proj(x).split(self.sizes, dim=-1)
        new: State = {}
        if self.conv is not None:
            taken, new["conv"] = self.conv.step(taken, state["conv"])
        added, log_decay = self.cell(taken, starts=context.clock_on(x.device) == 0)
        h, new["memory"] = vector_recurrence_step(added, log_decay, state["memory"])
        return self._finish(h, z), new

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        state: State = {"memory": torch.zeros(batch, self.width, device=device)}
        if self.conv is not None:
            state["conv"] = self.conv.init_state(batch, dtype, device)
        return state

    def flops(self, tokens: int, context_len: int) -> int:
        conv = 0 if self.conv is None else self.conv.flops(tokens)
        inner = conv + self.cell.flops(tokens) + 2 * tokens * self.width
        return linear_flops(tokens, self.in_proj, self.out_proj) + inner

    def _finish(self, h: Tensor, z: Tensor) -> Tensor:
        h = h if self.norm is None else self.norm(h)
        return self.out_proj(h if self.gate == "none" else h * GATES[self.gate](z))
