"""Queries, keys and values of an attention layer: one projection, grouped heads, rotary positions."""

from torch import Tensor, nn

from nas.architecture.mixers import Attention, BlockSparseAttention
from nas.context import Context
from nas.layers.linear import Linear
from nas.layers.rope import rotate


class QkvProjection(nn.Module):
    """x -> q, k, v. The rows of the weight are those of q, then of k, then of v; no biases."""

    def __init__(self, options: Attention | BlockSparseAttention, d_model: int) -> None:
        super().__init__()
        self.num_heads = options.num_heads
        self.kv_heads = options.kv_heads
        self.head_dim = options.head_dim
        self.rope_base = options.rope_base if options.position == "rope" else None
        self.linear = Linear(d_model, (self.num_heads + 2 * self.kv_heads) * self.head_dim)

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d] -> q [B, T, Hq, D], k and v [B, T, Hkv, D]."""
        qk, v = (
            self.linear(x)
            .unflatten(-1, (-1, self.head_dim))
            .split((self.num_heads + self.kv_heads, self.kv_heads), dim=2)
        )
        if self.rope_base is not None:
            qk = rotate(qk, self.rope_base, context)
        q, k = qk.split((self.num_heads, self.kv_heads), dim=2)
        return q, k, v

    def flops(self, tokens: int) -> int:
        return 2 * tokens * self.linear.weight.numel()
