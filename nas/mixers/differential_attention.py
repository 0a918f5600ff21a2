"""Differential attention: what two attentions to the same values have in common is subtracted.

    o = (1 - λ0) RMSNorm(softmax(q_1 k_1ᵀ / sqrt(D / 2)) V - λ softmax(q_2 k_2ᵀ / sqrt(D / 2)) V)
    λ = exp(λ_q1 · λ_k1) - exp(λ_q2 · λ_k2) + λ0

The norm is per head and has no weight, as in the published DiffLlama. Source: Ye et al. (arXiv 2410.05258), section 2.
"""

import torch
from torch import Tensor, nn

from kernels import attention, attention_step
from nas.architecture.differential_attention import DifferentialAttention
from nas.context import Context
from nas.layers.kv_cache import append, extend, pairs_in_window, slot_and_length
from nas.layers.linear import Linear
from nas.layers.norm import normalised
from nas.layers.qkv import QkvProjection
from nas.mixers.base import Mixer, State, linear_flops

LAMBDA_STD = 0.1
LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


class DifferentialAttentionMixer(Mixer):
    """Rows of the projection: queries (and keys) of all first attentions, then of the second ones; then values, the
    first halves of all heads before the second ones. The state holds keys of D / 2, and values of D a KV head."""

    def __init__(self, options: DifferentialAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.causal = options.causal
        self.num_heads, self.kv_heads, self.head_dim = options.num_heads, options.kv_heads, options.head_dim
        self.lambda_init, self.eps = options.lambda_init, options.norm_eps
        self.qkv = QkvProjection(options.halves(), d_model)
        for name in LAMBDAS:
            self.register_parameter(name, nn.Parameter(torch.empty(options.head_dim // 2).normal_(std=LAMBDA_STD)))
        self.out_proj = Linear(options.num_heads * options.head_dim, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        q, k, v = self._projected(x, context)
        if state is not None and self.causal:
            k, v = extend(state["k"], k, context.position), extend(state["v"], v, context.position)
        pairs = zip(q.chunk(2, dim=2), k.chunk(2, dim=2), strict=True)
        return self._finish(*(attention(q_half, k_half, v, causal=self.causal) for q_half, k_half in pairs)), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        self.check_causal()
        q, k, v = (tensor[:, 0] for tensor in self._projected(x.unsqueeze(1), context))
        slot, length = slot_and_length(context, state["k"].shape[1], 0, x.device)
        k_seen, v_seen = append(state["k"], k, slot), append(state["v"], v, slot)
        pairs = zip(q.chunk(2, dim=1), k_seen.chunk(2, dim=2), strict=True)
        outputs = (attention_step(q_half, k_half, v_seen, length) for q_half, k_half in pairs)
        return self._finish(*outputs), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        if not self.causal:
            return {}
        k = torch.zeros(batch, max_len, 2 * self.kv_heads, self.head_dim // 2, dtype=dtype, device=device)
        return {"k": k, "v": k.new_zeros(batch, max_len, self.kv_heads, self.head_dim)}

    def flops(self, tokens: int, context_len: int) -> int:
        # Of a pair: two scores of D / 2 and two sums of values of D.
        pairs = pairs_in_window(tokens, context_len, None) if self.causal else tokens**2
        products = 6 * pairs * self.num_heads * self.head_dim
        return self.qkv.flops(tokens) + products + linear_flops(tokens, self.out_proj)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # Everything is read; only keys and values of the new tokens are written.
        return self.state_bytes(context_len + tokens, dtype) + self.state_bytes(tokens, dtype)

    def _projected(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d] -> q [B, T, 2 H, D / 2], k [B, T, 2 Hkv, D / 2], v [B, T, Hkv, D]."""
        q, k, v = self.qkv(x, context)
        return q, k, torch.cat(v.chunk(2, dim=2), dim=-1)

    def _finish(self, first: Tensor, second: Tensor) -> Tensor:
        """The outputs of both attentions, each [..., H, D], subtracted, normalised and projected."""
        q_1, k_1, q_2, k_2 = (getattr(self, name).float() for name in LAMBDAS)
        factor = (q_1 * k_1).sum().exp() - (q_2 * k_2).sum().exp() + self.lambda_init
        o = normalised(first - factor.to(first.dtype) * second, self.eps)
        return self.out_proj(((1 - self.lambda_init) * o).flatten(-2))
