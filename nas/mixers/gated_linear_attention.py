"""Gated linear attention (GLA): a matrix state whose every key channel forgets at a rate that the token sets.

    S ← diag(exp(g)) S + k vᵀ,  g = logsigmoid(W₂ W₁ x + b) / 16;  y = W_o (RMSNorm(Sᵀ q / √K) * silu(W_z x))

The norm is per head. With `conv_size`, q, k and v first pass a short convolution and SiLU.
Source: Yang et al. (arXiv 2312.06635), section 4.3 and 4.4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import matrix_recurrence, matrix_recurrence_step
from nas.architecture.mixers import GatedLinearAttention
from nas.context import Context
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.recurrent import matrix_state, recurrence_flops, recurrence_from_start

GATE_TEMPERATURE = 16
"""Divides the log of the gate, so that a fresh network forgets slowly (section 4.4)."""


class GatedLinearAttentionMixer(Mixer):
    """`in_proj` gives q, k, v, the output gate z and the low-rank half of the decay gate, in this order."""

    def __init__(self, options: GatedLinearAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads = options.num_heads
        keys, values = options.num_heads * options.key_size, options.num_heads * options.head_dim
        self.sizes = (2 * keys + values, values, options.gate_rank)
        self.head_sizes = (options.key_size, options.head_dim)
        self.in_proj = Linear(d_model, sum(self.sizes))
        self.gate_proj = Linear(options.gate_rank, keys)
        self.gate_bias = nn.Parameter(torch.zeros(keys))
        self.conv = ShortConv(2 * keys + values, options.conv_size, bias=False) if options.conv_size else None
        self.norm = RMSNorm(options.head_dim)
        self.out_proj = Linear(values, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        qkv, z, low = self.in_proj(x).split(self.sizes, dim=-1)
        new: State = {}
        if self.conv is not None:
            qkv, last = self.conv(qkv, None if state is None else state["conv"])
            new = {} if last is None else {"conv": last}
        q, k, v = self._heads(qkv)
        log_decay = self._log_decay(low)
        if state is None:
            return self._finish(recurrence_from_start(q, k, v, log_decay=log_decay), z), None
        o, new["memory"] = matrix_recurrence(
            q, k, v, log_decay=log_decay, initial_state=state["memory"], return_state=True
        )
        return self._finish(o, z), new

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        qkv, z, low = self.in_proj(x).split(self.sizes, dim=-1)
        new: State = {}
        if self.conv is not None:
            qkv, new["conv"] = self.conv.step(qkv, state["conv"])
        q, k, v = self._heads(qkv)
        o, new["memory"] = matrix_recurrence_step(q, k, v, state["memory"], log_decay=self._log_decay(low))
        return self._finish(o, z), new

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        return matrix_state(self.conv, self.num_heads, *self.head_sizes, batch, dtype, device)

    def flops(self, tokens: int, context_len: int) -> int:
        projections = linear_flops(tokens, self.in_proj, self.gate_proj, self.out_proj)
        conv = 0 if self.conv is None else self.conv.flops(tokens)
        return projections + conv + recurrence_flops(tokens, self.num_heads, *self.head_sizes, products=2)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        key_size, head_dim = self.head_sizes
        keys = self.num_heads * key_size
        q, k, v = qkv.split((keys, keys, self.num_heads * head_dim), dim=-1)
        return q.unflatten(-1, (-1, key_size)), k.unflatten(-1, (-1, key_size)), v.unflatten(-1, (-1, head_dim))

    def _log_decay(self, low: Tensor) -> Tensor:
        gate = self.gate_proj(low).float() + self.gate_bias
        return (F.logsigmoid(gate) / GATE_TEMPERATURE).unflatten(-1, (self.num_heads, -1))

    def _finish(self, o: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(self.norm(o, gate=z.view_as(o)).flatten(-2))
