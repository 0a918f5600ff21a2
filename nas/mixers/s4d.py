"""S4D: a diagonal state per channel that decays at fixed rates, in the gated block of Mamba.

    h ← exp(Δ A) h + Δ B x;  y = W_o ((C h + D x) * silu(z)),  A_n = -exp(A_log_n), Δ = exp(log Δ), both of each channel
Source: Gu et al. (arXiv 2206.11893), section 4, S4D-Real; in this block: Gu and Dao (arXiv 2312.00752), section 4.6.1.
"""

import math

import torch
from torch import Tensor, nn

from kernels import selective_scan, selective_scan_step
from nas.architecture.s4d import S4d
from nas.context import Context
from nas.layers.decay import STEP_RANGE
from nas.layers.linear import Linear
from nas.layers.short_conv import ShortConv
from nas.mixers.base import Mixer, State, linear_flops


class S4dMixer(Mixer):
    """`in_proj` gives x and z, in this order. B and C are [groups, N]."""

    def __init__(self, options: S4d, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.inner = options.num_heads * options.head_dim
        self.state_dim, groups = options.state_dim, options.num_groups
        self.in_proj = Linear(d_model, 2 * self.inner)
        self.conv = ShortConv(self.inner, options.conv_size, bias=True) if options.conv_size else None
        low, high = (math.log(bound) for bound in STEP_RANGE)
        self.log_step = nn.Parameter(torch.empty(self.inner).uniform_(low, high))
        self.A_log = nn.Parameter(torch.arange(1.0, self.state_dim + 1).log().repeat(self.inner, 1))
        self.B = nn.Parameter(torch.ones(groups, self.state_dim))
        self.C = nn.Parameter(torch.randn(groups, self.state_dim))
        self.D = nn.Parameter(torch.ones(self.inner))
        self.out_proj = Linear(self.inner, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        new: State = {}
        if self.conv is not None:
            u, last = self.conv(u, None if state is None else state["conv"])
            new = {} if last is None else {"conv": last}
        if state is None:
            return self.out_proj(selective_scan(u, *self._scan_inputs(u), D=self.D, z=z)), None
        y, new["memory"] = selective_scan(
            u, *self._scan_inputs(u), D=self.D, z=z, initial_state=state["memory"], return_state=True
        )
        return self.out_proj(y), new

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        new: State = {}
        if self.conv is not None:
            u, new["conv"] = self.conv.step(u, state["conv"])
        y, new["memory"] = selective_scan_step(u, *self._scan_inputs(u), state["memory"], D=self.D, z=z)
        return self.out_proj(y), new

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        state: State = {"memory": torch.zeros(batch, self.inner, self.state_dim, device=device)}
        if self.conv is not None:
            state["conv"] = self.conv.init_state(batch, dtype, device)
        return state

    def flops(self, tokens: int, context_len: int) -> int:
        conv = 0 if self.conv is None else self.conv.flops(tokens)
        return linear_flops(tokens, self.in_proj, self.out_proj) + conv + 4 * tokens * self.inner * self.state_dim

    def _scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(Δ, A, B, C), the same for all tokens of u [..., inner]."""
        lead = u.shape[:-1]
        delta = self.log_step.float().exp().expand(*lead, -1)
        B, C = (x.squeeze(0) if x.shape[0] == 1 else x for x in (self.B, self.C))
        return delta, -self.A_log.float().exp(), B.expand(*lead, *B.shape), C.expand(*lead, *C.shape)
