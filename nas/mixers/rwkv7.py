"""The time mixing of RWKV-7: decays per key channel, and erasing along a key of its own at a rate per channel.

    S ← diag(w) S - (κ ⊙ a)(κᵀ S) + k vᵀ;  y = W_o (g ⊙ (GroupNorm(Sᵀ r) + (r · (u ⊙ k)) v))
    log w = -σ(decay) / √e;  a = σ(rate);  κ = k' ⊙ key_scale, of length one;  k = k' ⊙ (1 + (a - 1) ⊙ key_rate)

r, decay, k', v, a and g each see x plus a learned share of the step to the token before. Values are mixed with those of
the first such layer, v + (v_first - v) σ(value): found in the context, where that layer leaves them.
Source: Peng et al. (arXiv 2503.14456), section 4.1.
"""

import math

import torch
from torch import Tensor, nn

from nas.architecture.rwkv import Rwkv7
from nas.context import Context
from nas.layers.linear import Linear
from nas.layers.low_rank import LowRank
from nas.layers.norm import l2_normalise
from nas.layers.readout import Readout
from nas.layers.token_shift import initial_shares
from nas.mixers.base import linear_flops
from nas.mixers.recurrent import recurrence_flops
from nas.mixers.rwkv import RwkvMixer

SLOWEST = -math.exp(-0.5)
SHARE_POWERS = (0.1, 0.45, 0.35, 0.35, 0.45, 0.1)


class Rwkv7Mixer(RwkvMixer):
    """The rows of `shares` are those of r, the decay, k, v, the rate and the gate."""

    def __init__(self, options: Rwkv7, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads, self.head_dim = options.num_heads, options.head_dim
        inner = options.num_heads * options.head_dim
        self.shares = nn.Parameter(initial_shares(d_model, *SHARE_POWERS))
        self.r_proj, self.k_proj, self.v_proj = (Linear(d_model, inner) for _ in range(3))
        speed = torch.linspace(-5.5, 0.5, inner)
        self.decay = LowRank(d_model, options.decay_rank, inner, activation="tanh", bias=speed)
        self.rate = LowRank(d_model, options.rate_rank, inner, bias=torch.full((inner,), -0.19))
        self.gate = LowRank(d_model, options.gate_rank, inner, activation="sigmoid")
        self.value = None
        if options.value_rank is not None:
            self.value = LowRank(d_model, options.value_rank, inner, bias=torch.full((inner,), 0.73))
        self.key_scale = nn.Parameter(torch.full((inner,), 0.71))
        self.key_rate = nn.Parameter(torch.full((inner,), 1.02))
        self.own = nn.Parameter(torch.full((options.num_heads, options.head_dim), -0.04))
        self.readout = Readout(
            heads=options.num_heads,
            size=options.head_dim,
            norm="layer",
            gate="none",
            gate_first=False,
            eps=options.norm_eps,
            bias=True,
        )
        self.out_proj = Linear(inner, d_model)

    def mix(self, x: Tensor, previous: Tensor, memory: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        step = previous - x
        r, w, k, v, a, g = (x + step * share for share in self.shares.to(x.dtype))
        values = self._values(v, context)
        log_decay = SLOWEST * self.decay(w).float().sigmoid()
        rate = self.rate(a).sigmoid()
        keys = self.k_proj(k)
        (other,) = self.by_head(keys * self.key_scale.to(keys.dtype))
        keys = keys * (1 + (rate - 1) * self.key_rate.to(keys.dtype))
        r, k, v, log_decay, rate = self.by_head(self.r_proj(r), keys, values, log_decay, rate)
        other = l2_normalise(other)
        o, memory = self.recur(r, k, v, memory, log_decay, erase=(-other, other * rate))
        own = (r * k * self.own.to(r.dtype)).sum(-1, keepdim=True) * v
        return self.out_proj((self.readout(o, None) + own.flatten(-2)) * self.gate(g)), memory

    def flops(self, tokens: int, context_len: int) -> int:
        pairs = [pair for pair in (self.decay, self.rate, self.gate, self.value) if pair is not None]
        projections = linear_flops(tokens, self.r_proj, self.k_proj, self.v_proj, self.out_proj)
        recurrence = recurrence_flops(tokens, self.num_heads, self.head_dim, self.head_dim, products=4)
        return projections + sum(pair.flops(tokens) for pair in pairs) + recurrence

    def _values(self, v: Tensor, context: Context) -> Tensor:
        """Mixed with those of the first such layer of this pass, which is this one where no earlier layer was."""
        values = self.v_proj(v)
        (first,) = context.shared.setdefault(("values of RWKV-7", values.shape[-1]), (values,))
        return values if self.value is None else values + (first - values) * self.value(v).sigmoid()
