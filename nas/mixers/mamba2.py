"""Mamba-2 (SSD): a matrix state with one decay per head and token, in the block of the paper.

    h ← exp(Δ A) h + B (Δ x)ᵀ;  o = Cᵀ h + D x;  y = W_o RMSNorm(o * silu(z));  Δ = softplus(dt + bias), A = -exp(A_log)

As a matrix recurrence: q = C, k = B (one per group of heads), v = Δ x, log decay Δ A, scale 1. x, B and C pass a short
convolution and SiLU. The norm is taken per group of heads.
Source: Dao and Gu (arXiv 2405.21060), sections 6 and 7.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import matrix_recurrence, matrix_recurrence_step
from nas.architecture.mixers import Mamba2
from nas.context import Context
from nas.layers.decay import initial_log_rate, initial_step_bias
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.recurrent import matrix_state, recurrence_flops, recurrence_from_start


class Mamba2Mixer(Mixer):
    """`in_proj` gives z, x, B, C and dt, in this order, as the published code does."""

    def __init__(self, options: Mamba2, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads, self.head_dim = options.num_heads, options.head_dim
        self.num_groups, self.state_dim = options.num_groups, options.state_dim
        inner, shared = options.num_heads * options.head_dim, options.num_groups * options.state_dim
        self.sizes = (inner, inner + 2 * shared, options.num_heads)
        self.scales = (options.gate_scale, options.input_scale, options.key_scale, options.query_scale)
        self.step_scale, self.min_step = options.step_scale, options.min_step
        self.in_proj = Linear(d_model, sum(self.sizes), bias=options.in_bias)
        self.conv = ShortConv(inner + 2 * shared, options.conv_size, bias=options.conv_bias)
        self.A_log = nn.Parameter(initial_log_rate(options.num_heads, low=1.0))
        self.dt_bias = nn.Parameter(initial_step_bias(options.num_heads))
        self.D = nn.Parameter(torch.ones(options.num_heads))
        self.output_norm = options.output_norm
        if options.output_norm != "none":
            self.norm = RMSNorm(inner, eps=options.norm_eps, groups=options.num_groups)
        self.out_proj = Linear(inner, d_model, bias=options.out_bias)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        z, xbc, dt = self._projected(x)
        xbc, conv = self.conv(xbc, None if state is None else state["conv"])
        q, k, inputs, v, log_decay = self._recurrence_inputs(xbc, dt)
        if state is None:
            o = recurrence_from_start(q, k, v, log_decay=log_decay, scale=1.0)
            return self._finish(o, inputs, z), None
        o, memory = matrix_recurrence(
            q, k, v, log_decay=log_decay, scale=1.0, initial_state=state["memory"], return_state=True
        )
        return self._finish(o, inputs, z), {"memory": memory, "conv": conv}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        z, xbc, dt = self._projected(x)
        xbc, conv = self.conv.step(xbc, state["conv"])
        q, k, inputs, v, log_decay = self._recurrence_inputs(xbc, dt)
        o, memory = matrix_recurrence_step(q, k, v, state["memory"], log_decay=log_decay, scale=1.0)
        return self._finish(o, inputs, z), {"memory": memory, "conv": conv}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        return matrix_state(self.conv, self.num_heads, self.state_dim, self.head_dim, batch, dtype, device)

    def flops(self, tokens: int, context_len: int) -> int:
        recurrence = recurrence_flops(tokens, self.num_heads, self.state_dim, self.head_dim, products=2)
        return linear_flops(tokens, self.in_proj, self.out_proj) + self.conv.flops(tokens) + recurrence

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z, the channels of the convolution, and dt."""
        z, xbc, dt = self.in_proj(x).split(self.sizes, dim=-1)
        if any(scale != 1 for scale in self.scales):
            shared = self.num_groups * self.state_dim
            channels = xbc.split((self.num_heads * self.head_dim, shared, shared), dim=-1)
            z = z * self.scales[0]
            xbc = torch.cat([part * scale for part, scale in zip(channels, self.scales[1:], strict=True)], dim=-1)
        return z, xbc, dt if self.step_scale == 1 else dt * self.step_scale

    def _recurrence_inputs(self, xbc: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(q, k, x, v, log decay) by head; leading axes as given."""
        shared = self.num_groups * self.state_dim
        inputs, k, q = xbc.split((self.num_heads * self.head_dim, shared, shared), dim=-1)
        inputs = inputs.unflatten(-1, (self.num_heads, self.head_dim))
        step = F.softplus(dt.float() + self.dt_bias)
        step = step.clamp(min=self.min_step) if self.min_step else step
        v = (inputs * step.unsqueeze(-1)).to(inputs.dtype)
        k, q = (tensor.unflatten(-1, (self.num_groups, self.state_dim)) for tensor in (k, q))
        return q, k, inputs, v, step * -self.A_log.float().exp()

    def _finish(self, o: Tensor, inputs: Tensor, z: Tensor) -> Tensor:
        skipped = (o + inputs * self.D.to(inputs.dtype).unsqueeze(-1)).flatten(-2)
        if self.output_norm == "none":
            return self.out_proj(skipped * F.silu(z))
        return self.out_proj(self.norm(skipped, gate=z, gate_first=self.output_norm == "after_gate"))
