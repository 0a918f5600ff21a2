"""Gated DeltaNet: a matrix state that forgets at one rate per head and replaces, by the delta rule, what a key recalls.

    S ← α (S - β k (kᵀ S)) + β k vᵀ;  y = W_o (RMSNorm(Sᵀ q / √K) * silu(z));  log α = -exp(A_log) softplus(a + bias)

q, k and v pass a short convolution and SiLU; q and k are L2-normalised per head; β = sigmoid(b); the norm is per head.
Source: Yang et al. (arXiv 2412.06464), sections 3.1 and 3.4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import matrix_recurrence, matrix_recurrence_step
from nas.architecture.mixers import GatedDeltaNet
from nas.context import Context
from nas.layers.decay import initial_log_rate, initial_step_bias
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm, l2_normalise
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.recurrent import matrix_state, recurrence_flops, recurrence_from_start


class GatedDeltaNetMixer(Mixer):
    """`in_proj` gives q, k, v, the output gate z, b and a, in this order."""

    def __init__(self, options: GatedDeltaNet, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads = options.num_heads
        self.head_sizes = (options.key_size, options.head_dim)
        self.keys, self.values = options.key_heads * options.key_size, options.num_heads * options.head_dim
        self.sizes = (2 * self.keys + self.values, self.values, self.num_heads, self.num_heads)
        self.in_proj = Linear(d_model, sum(self.sizes))
        self.conv = ShortConv(2 * self.keys + self.values, options.conv_size, bias=False)
        # The published range starts at 0, whose logarithm is not finite.
        self.A_log = nn.Parameter(initial_log_rate(options.num_heads, low=0.01))
        self.dt_bias = nn.Parameter(initial_step_bias(options.num_heads))
        self.norm = RMSNorm(options.head_dim, eps=options.norm_eps)
        self.out_proj = Linear(self.values, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        qkv, z, b, a = self.in_proj(x).split(self.sizes, dim=-1)
        qkv, conv = self.conv(qkv, None if state is None else state["conv"])
        q, k, v = self._heads(qkv)
        log_decay, beta = self._gates(a, b)
        if state is None:
            return self._finish(recurrence_from_start(q, k, v, log_decay=log_decay, beta=beta), z), None
        o, memory = matrix_recurrence(
            q, k, v, log_decay=log_decay, beta=beta, initial_state=state["memory"], return_state=True
        )
        return self._finish(o, z), {"memory": memory, "conv": conv}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        qkv, z, b, a = self.in_proj(x).split(self.sizes, dim=-1)
        qkv, conv = self.conv.step(qkv, state["conv"])
        q, k, v = self._heads(qkv)
        log_decay, beta = self._gates(a, b)
        o, memory = matrix_recurrence_step(q, k, v, state["memory"], log_decay=log_decay, beta=beta)
        return self._finish(o, z), {"memory": memory, "conv": conv}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        return matrix_state(self.conv, self.num_heads, *self.head_sizes, batch, dtype, device)

    def flops(self, tokens: int, context_len: int) -> int:
        recurrence = recurrence_flops(tokens, self.num_heads, *self.head_sizes, products=3)
        return linear_flops(tokens, self.in_proj, self.out_proj) + self.conv.flops(tokens) + recurrence

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key_size, head_dim = self.head_sizes
        qk, v = qkv.split((2 * self.keys, self.values), dim=-1)
        q, k = l2_normalise(qk.unflatten(-1, (-1, key_size))).chunk(2, dim=-2)
        return q, k, v.unflatten(-1, (-1, head_dim))

    def _gates(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(log decay, beta) per head, in float32."""
        log_decay = F.softplus(a.float() + self.dt_bias) * -self.A_log.float().exp()
        return log_decay, b.float().sigmoid()

    def _finish(self, o: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(self.norm(o, gate=z.view_as(o)).flatten(-2))
