"""Queries, keys and values of an attention layer: one projection, grouped heads, norms, rotary positions."""

import torch
from torch import Tensor, nn

from nas.architecture.forgetting_attention import ForgettingAttention
from nas.architecture.hash_attention import HashAttention
from nas.architecture.mixers import Attention, BlockSparseAttention
from nas.architecture.native_sparse_attention import NativeSparseAttention
from nas.architecture.pattern_attention import PatternAttention
from nas.architecture.window_linear_attention import WindowLinearAttention
from nas.context import Context
from nas.layers.adapter import adapted
from nas.layers.linear import Linear
from nas.layers.norm import RMSNorm, normalised
from nas.layers.rope import Rope, rotate

Grouped = (
    Attention
    | BlockSparseAttention
    | PatternAttention
    | NativeSparseAttention
    | ForgettingAttention
    | HashAttention
    | WindowLinearAttention
)


class QkvProjection(nn.Module):
    """x -> q, k, v. The rows of the weight (and bias) are those of q, then of k, then of v (with tie_kv, of q and k).

    qk_norm: `head` and `full` normalise before the rotation, over a head and over all heads together, with weights;
    `l2` after it, over a head, without.
    """

    def __init__(self, options: Grouped, d_model: int) -> None:
        super().__init__()
        self.num_heads = options.num_heads
        self.kv_heads = options.kv_heads
        self.head_dim = options.head_dim
        self.value_dim = value_size(options)
        self.rope = rope_of(options)
        self.tie_kv = options.tie_kv
        sizes = projected_sizes(options)
        read = options.read_size(d_model) if isinstance(options, Attention) else d_model
        self.linear = Linear(read, sum(sizes), bias=options.qkv_bias)
        self.temperature = (options.temperature_floor, options.temperature_scale)
        self.qk_norm = options.qk_norm
        self.eps = options.norm_eps
        if options.qk_norm in ("head", "full"):
            heads = (1, 1) if options.qk_norm == "head" else (self.num_heads, self.kv_heads)
            self.q_norm = RMSNorm(heads[0] * self.head_dim, eps=options.norm_eps)
            if len(sizes) > 1:
                self.k_norm = RMSNorm(heads[1] * self.head_dim, eps=options.norm_eps)

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d] -> q [B, T, Hq, D], k [B, T, Hkv, D], v [B, T, Hkv, Dv]."""
        projected = self._projected(x, context)
        if self.tie_kv:
            qk = projected.unflatten(-1, (-1, self.head_dim))
            v = qk[:, :, self.num_heads :]
        else:
            values = self.kv_heads * self.value_dim
            qk, v = projected.split((projected.shape[-1] - values, values), dim=-1)
            qk, v = qk.unflatten(-1, (-1, self.head_dim)), v.unflatten(-1, (-1, self.value_dim))
        if self.qk_norm in ("head", "full"):
            q, k = (self._rotated(x, context) for x in self._normed(qk))
            return self._tempered(q, context), k, v
        qk = self._rotated(qk, context)
        if self.qk_norm == "l2":
            qk = normalised(qk, self.eps)
        q, k = qk.split((self.num_heads, self.kv_heads), dim=2)
        return self._tempered(q, context), k, v

    def queries(self, x: Tensor, context: Context) -> Tensor:
        """x [B, T, d] -> q [B, T, Hq, D] of an attention whose keys and values are those of an earlier layer."""
        q = self._projected(x, context).unflatten(-1, (-1, self.head_dim))
        if self.qk_norm in ("head", "full"):
            q = self._normed_by(self.q_norm, q)
        q = self._rotated(q, context)
        return self._tempered(normalised(q, self.eps) if self.qk_norm == "l2" else q, context)

    def flops(self, tokens: int) -> int:
        return 2 * tokens * self.linear.weight.numel()

    def _projected(self, x: Tensor, context: Context) -> Tensor:
        return adapted(self.linear(x), x, context.mixer_adapter)

    def _normed(self, qk: Tensor) -> tuple[Tensor, Tensor]:
        q, k = qk.split((self.num_heads, self.kv_heads), dim=2)
        return self._normed_by(self.q_norm, q), self._normed_by(self.k_norm, k)

    def _normed_by(self, norm: RMSNorm, x: Tensor) -> Tensor:
        """x [B, T, H, D] per head, or over all heads together."""
        return norm(x) if self.qk_norm == "head" else norm(x.flatten(2)).unflatten(-1, (-1, self.head_dim))

    def _tempered(self, q: Tensor, context: Context) -> Tensor:
        """Queries far into the text are made longer, so that attention over many keys stays as sharp."""
        floor, scale = self.temperature
        if floor is None:
            return q
        read = context.clock_on(q.device) + torch.arange(1, q.shape[1] + 1, device=q.device)
        factor = 1 + scale * torch.log1p((read // floor).float())
        return (q * factor.view(1, -1, 1, 1)).to(q.dtype)

    def _rotated(self, x: Tensor, context: Context) -> Tensor:
        return x if self.rope is None else rotate(x, self.rope, context)


def projected_sizes(options: Grouped) -> list[int]:
    """Rows of the weight: those of q, k and v, as far as they are projected here."""
    sizes = [options.num_heads * options.head_dim, options.kv_heads * options.head_dim]
    if isinstance(options, Attention) and options.kv_from == "earlier":
        return sizes[:1]
    return sizes if options.tie_kv else [*sizes, options.kv_heads * value_size(options)]


def value_size(options: Grouped) -> int:
    """Of a head of the values."""
    return options.value_size if isinstance(options, Attention) else options.head_dim


def rope_of(options: Grouped) -> Rope | None:
    """The rotary positions that the options ask for, or None."""
    if options.position != "rope":
        return None
    return Rope(
        size=options.rope_size,
        base=options.rope_base,
        interleaved=options.rope_interleaved,
        scaling=options.rope_scaling,
    )
