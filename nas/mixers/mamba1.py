"""Mamba-1: a diagonal state per channel whose step size, input and output the token sets, in the block of the paper.

    h ← exp(Δ A) h + Δ B x;  y = W_o ((C h + D x) * silu(z));  Δ = softplus(W_Δ δ + bias), A = -exp(A_log)

x passes a short convolution and SiLU; δ (of rank dt_rank), B and C are projected from it.
Source: Gu and Dao (arXiv 2312.00752), sections 3.2 to 3.6; real initialisation A_n = -n, section 3.6.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import selective_scan, selective_scan_step
from nas.architecture.mixers import Mamba1
from nas.context import Context
from nas.layers.decay import initial_step_bias
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm, normalised
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops


class Mamba1Mixer(Mixer):
    """`in_proj` gives x and z, `x_proj` δ, B and C, in this order, as the published code does."""

    def __init__(self, options: Mamba1, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.inner = options.num_heads * options.head_dim
        self.state_dim = options.state_dim
        self.dt_rank = math.ceil(d_model / 16) if options.dt_rank is None else options.dt_rank
        self.in_proj = Linear(d_model, 2 * self.inner, bias=options.proj_bias)
        self.conv = ShortConv(self.inner, options.conv_size, bias=options.conv_bias)
        self.x_proj = Linear(self.inner, self.dt_rank + 2 * self.state_dim)
        self.dt_proj = Linear(self.dt_rank, self.inner)
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        self.dt_bias = nn.Parameter(initial_step_bias(self.inner))
        self.A_log = nn.Parameter(torch.arange(1.0, self.state_dim + 1).log().repeat(self.inner, 1))
        self.D = nn.Parameter(torch.ones(self.inner))
        self.inner_norm, self.eps = options.inner_norm, options.norm_eps
        if options.inner_norm == "learned":
            sizes = (self.dt_rank, self.state_dim, self.state_dim)
            self.dt_norm, self.B_norm, self.C_norm = (RMSNorm(size, eps=self.eps) for size in sizes)
        self.out_proj = Linear(self.inner, d_model, bias=options.proj_bias)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, conv = self.conv(u, None if state is None else state["conv"])
        delta, A, B, C = self._scan_inputs(u)
        if state is None:
            return self.out_proj(selective_scan(u, delta, A, B, C, D=self.D, z=z)), None
        y, memory = selective_scan(u, delta, A, B, C, D=self.D, z=z, initial_state=state["memory"], return_state=True)
        return self.out_proj(y), {"memory": memory, "conv": conv}

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, conv = self.conv.step(u, state["conv"])
        delta, A, B, C = self._scan_inputs(u)
        y, memory = selective_scan_step(u, delta, A, B, C, state["memory"], D=self.D, z=z)
        return self.out_proj(y), {"memory": memory, "conv": conv}

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        memory = torch.zeros(batch, self.inner, self.state_dim, device=device)
        return {"memory": memory, "conv": self.conv.init_state(batch, dtype, device)}

    def flops(self, tokens: int, context_len: int) -> int:
        projections = linear_flops(tokens, self.in_proj, self.x_proj, self.dt_proj, self.out_proj)
        return projections + self.conv.flops(tokens) + 4 * tokens * self.inner * self.state_dim

    def _scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(Δ, A, B, C); leading axes as given."""
        low, B, C = self.x_proj(u).split((self.dt_rank, self.state_dim, self.state_dim), dim=-1)
        if self.inner_norm == "learned":
            low, B, C = self.dt_norm(low), self.B_norm(B), self.C_norm(C)
        elif self.inner_norm == "plain":
            low, B, C = (normalised(part, self.eps) for part in (low, B, C))
        delta = F.softplus(self.dt_proj(low).float() + self.dt_bias)
        return delta, -self.A_log.float().exp(), B, C
