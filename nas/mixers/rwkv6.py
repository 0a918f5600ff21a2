"""The time mixing of RWKV-6: decays per key channel, and a bonus with which a token reads itself.

    S ← diag(w) S + k vᵀ;  o = S_beforeᵀ r + (r · (u ⊙ k)) v;  y = W_o (GroupNorm(o) ⊙ silu(g));  log w = -exp(decay)

r, the decay, k, v and g each see x plus a share of the step to the token before, and the token itself sets the shares:
shares + tanh(W x') V with x' = x plus a learned share of the step.
Source: Peng et al. (arXiv 2404.05892), section 4.2 and equations 10 to 17.
"""

import torch
from torch import Tensor, nn

from nas.architecture.rwkv import Rwkv6
from nas.context import Context
from nas.layers.linear import INIT_STD, Linear
from nas.layers.low_rank import LowRank
from nas.layers.readout import Readout
from nas.layers.token_shift import initial_shares
from nas.mixers.base import linear_flops
from nas.mixers.recurrent import recurrence_flops
from nas.mixers.rwkv import RwkvMixer

MIXED = 5
SHARE_POWERS = (0.25, 0.5, 0.5, 0.5, 0.25)


class Rwkv6Mixer(RwkvMixer):
    """The rows of `shares`, and the parts of `share_down` and `share_up`, are those of r, the decay, k, v and g."""

    def __init__(self, options: Rwkv6, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads, self.head_dim = options.num_heads, options.head_dim
        inner = options.num_heads * options.head_dim
        self.first_share = nn.Parameter(initial_shares(d_model, 0.5)[0])
        self.shares = nn.Parameter(initial_shares(d_model, *SHARE_POWERS))
        self.share_down = Linear(d_model, MIXED * options.mix_rank)
        self.share_up = nn.Parameter(torch.empty(MIXED, options.mix_rank, d_model).normal_(std=INIT_STD))
        self.r_proj, self.k_proj, self.v_proj, self.g_proj = (Linear(d_model, inner) for _ in range(4))
        speed = torch.linspace(-6.0, -1.0, inner)
        self.decay = LowRank(d_model, options.decay_rank, inner, activation="tanh", bias=speed)
        self.bonus = nn.Parameter(torch.zeros(options.num_heads, options.head_dim))
        self.readout = Readout(
            heads=options.num_heads,
            size=options.head_dim,
            norm="layer",
            gate="silu",
            gate_first=False,
            eps=options.norm_eps,
            bias=True,
        )
        self.out_proj = Linear(inner, d_model)

    def mix(self, x: Tensor, previous: Tensor, memory: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        step = previous - x
        low = self.share_down(x + step * self.first_share.to(x.dtype)).tanh().unflatten(-1, (MIXED, -1))
        shares = torch.einsum("...nr,nrd->...nd", low, self.share_up.to(low.dtype)) + self.shares.to(low.dtype)
        r, w, k, v, g = (x + step * share for share in shares.unbind(-2))
        log_decay = -self.decay(w).float().exp()
        r, k, v, log_decay = self.by_head(self.r_proj(r), self.k_proj(k), self.v_proj(v), log_decay)
        o, memory = self.recur(r, k, v, memory, log_decay, bonus=self.bonus.float())
        return self.out_proj(self.readout(o, self.g_proj(g))), memory

    def flops(self, tokens: int, context_len: int) -> int:
        layers = (self.share_down, self.r_proj, self.k_proj, self.v_proj, self.g_proj, self.out_proj)
        recurrence = recurrence_flops(tokens, self.num_heads, self.head_dim, self.head_dim, products=2)
        shares = 2 * tokens * self.share_up.numel() + self.decay.flops(tokens)
        return linear_flops(tokens, *layers) + shares + recurrence
