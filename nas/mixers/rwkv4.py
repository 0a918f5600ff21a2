"""The time mixing of RWKV-4: y = W_o (σ(r) ⊙ wkv(k, v)), a mean of values with weights exp(k) that decay by channel.

r, k and v each see x plus a learned share of the step to the token before.
Source: Peng et al. (arXiv 2305.13048), section 3.1; the mean: `kernels.wkv`.
"""

import torch
from torch import Tensor, nn

from kernels import wkv, wkv_step
from nas.architecture.rwkv import Rwkv4
from nas.context import Context
from nas.layers.linear import Linear
from nas.layers.token_shift import initial_shares
from nas.mixers.base import linear_flops
from nas.mixers.rwkv import RwkvMixer

NOTHING_SEEN = -1e38
"""The logarithm of the largest weight so far, as `kernels.wkv` begins with it."""


class Rwkv4Mixer(RwkvMixer):
    """The rows of `shares` are those of k, v and r. The memory is [B, 3, inner]: both sums, and their shift."""

    def __init__(self, options: Rwkv4, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.num_heads, self.head_dim = options.num_heads, options.head_dim
        self.inner = options.num_heads * options.head_dim
        self.shares = nn.Parameter(initial_shares(d_model, 0.5, 0.5, 0.25))
        self.k_proj, self.v_proj, self.r_proj = (Linear(d_model, self.inner) for _ in range(3))
        self.decay = nn.Parameter(torch.linspace(-5.0, 3.0, self.inner))
        self.first = nn.Parameter(torch.full((self.inner,), -1.2))
        self.out_proj = Linear(self.inner, d_model)

    def mix(self, x: Tensor, previous: Tensor, memory: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        step = previous - x
        k, v, r = (x + step * share for share in self.shares.to(x.dtype))
        given = (self.k_proj(k), self.v_proj(v), -self.decay.float().exp(), self.first.float())
        if memory is None:
            mean = wkv(*given)
            assert isinstance(mean, Tensor), "without return_state there is no state"
        elif x.ndim == 2:
            mean, memory = wkv_step(*given, memory)
        else:
            mean, memory = wkv(*given, initial_state=memory, return_state=True)
        return self.out_proj(self.r_proj(r).sigmoid() * mean), memory

    def empty_memory(self, batch: int, device: torch.device) -> Tensor:
        memory = torch.zeros(batch, 3, self.inner, device=device)
        memory[:, 2] = NOTHING_SEEN
        return memory

    def flops(self, tokens: int, context_len: int) -> int:
        # Two sums decay and grow, and both are read with the token's own weight.
        projections = linear_flops(tokens, self.k_proj, self.v_proj, self.r_proj, self.out_proj)
        return projections + 8 * tokens * self.inner
