"""Softmax attention with grouped keys and values, over everything or a sliding window; positions are rotary, biases of
the scores by distance, or none.

Sources: Vaswani et al. (arXiv 1706.03762); grouped queries: Ainslie et al. (arXiv 2305.13245); sliding window: Mistral
(arXiv 2310.06825), section 2; global keys beside a window: Xiao et al. (arXiv 2309.17453), section 3, here at their own
positions; keys and values of an earlier layer: Brandon et al. (arXiv 2405.12981), section 3; output gate: Qiu et al.
(arXiv 2505.06708), section 3; heads picked by the token: `nas.layers.head_router`; biases:
`nas.layers.relative_bias`; caps and sinks: `kernels`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from kernels import attention, attention_step
from nas.architecture.kv_sharing import reach
from nas.architecture.mixers import Attention
from nas.context import Context
from nas.layers.head_router import HeadRouter
from nas.layers.kv_cache import append, empty_cache, extend, pairs_in_window, slot_and_length
from nas.layers.linear import Linear
from nas.layers.qkv import QkvProjection
from nas.layers.relative_bias import RelativeBias
from nas.mixers.base import Mixer, State, linear_flops


class AttentionMixer(Mixer):
    """The state holds min(max_len, num_global + window) keys and values per KV head; none where they are shared."""

    def __init__(self, options: Attention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.causal = options.causal
        self.window = options.window
        self.num_global = options.num_global
        self.shares = options.kv_from == "earlier"
        self.source = ("keys and values", *reach(options))
        self.scale = options.score_scale * options.head_dim**-0.5
        self.soft_cap = options.soft_cap
        self.sinks = nn.Parameter(torch.zeros(options.num_heads)) if options.sinks else None
        self.qkv = QkvProjection(options, d_model)
        self.bias = None
        if options.position == "relative":
            buckets, distance = options.relative_buckets, options.relative_distance
            self.bias = RelativeBias(options.num_heads, buckets, distance, d_model)
        inner = options.num_heads * options.value_size
        self.gate_proj = Linear(options.read_size(d_model), inner) if options.output_gate == "sigmoid" else None
        self.router = None
        if options.routes_heads:
            counts = {"heads": options.num_heads, "always": options.always_heads, "active": options.active_heads}
            self.router = HeadRouter(options.read_size(d_model), **counts)
        self.out_proj = Linear(inner, d_model, bias=options.out_bias)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        if self.shares:
            q, (k, v) = self.qkv.queries(x, context), self._shared(context)
        else:
            q, k, v = self.qkv(x, context)
            if state is not None and self.causal:
                read = (("k", k), ("v", v))
                k, v = (extend(state[name], new, context.position, self.num_global) for name, new in read)
            context.shared[self.source] = (k, v)
        given = {"scale": self.scale, "window": self.window, **self._score_options(q)}
        if self.bias is None:
            o = attention(q, k, v, causal=self.causal, num_global=self.num_global, **given)
        else:
            o = self.bias.attend(q, k, v, **given)
        return self._finish(o, x, context), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        self.check_causal()
        if self.shares:
            q, (k_seen, v_seen) = self.qkv.queries(x.unsqueeze(1), context), self._shared(context)
            _, length = slot_and_length(context, k_seen.shape[1], self.num_global, x.device)
        else:
            q, k, v = self.qkv(x.unsqueeze(1), context)
            slot, length = slot_and_length(context, state["k"].shape[1], self.num_global, x.device)
            k_seen, v_seen = append(state["k"], k[:, 0], slot), append(state["v"], v[:, 0], slot)
            context.shared[self.source] = (k_seen, v_seen)
        bias = None
        if self.bias is not None:
            bias = self.bias.of_slots(context.clock_on(x.device), k_seen.shape[1]).expand(x.shape[0], -1, -1)
            bias = bias.contiguous()
        o = attention_step(q[:, 0], k_seen, v_seen, length, scale=self.scale, bias=bias, **self._score_options(q))
        return self._finish(o, x, context), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        if self.shares or not self.causal:
            return {}
        return self._cache(batch, max_len, dtype, device)

    def _cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        slots = max_len if self.window is None else min(max_len, self.num_global + self.window)
        sizes = self.qkv.head_dim, self.qkv.value_dim
        return empty_cache(batch, slots, self.qkv.kv_heads, sizes, dtype, device)

    def flops(self, tokens: int, context_len: int) -> int:
        seen = None if self.window is None else self.num_global + self.window
        pairs = pairs_in_window(tokens, context_len, seen) if self.causal else tokens**2
        products = 2 * pairs * self.qkv.num_heads * (self.qkv.head_dim + self.qkv.value_dim)
        layers = [self.gate_proj, None if self.router is None else self.router.proj, self.out_proj]
        return self.qkv.flops(tokens) + products + linear_flops(tokens, *(layer for layer in layers if layer))

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # All keys and values in sight are read; only those of the new tokens are written, by the layer that has them.
        if not self.causal:
            return 0
        if self.shares:
            cache = self._cache(1, context_len + tokens, dtype, torch.device("meta"))
            return sum(tensor.nbytes for tensor in cache.values())
        return self.state_bytes(context_len + tokens, dtype) + self.state_bytes(tokens, dtype)

    def _shared(self, context: Context) -> tuple[Tensor, ...]:
        """Keys and values of the earlier layer, as that left them in the context of this pass."""
        if self.source not in context.shared:
            raise ValueError(
                "KV is shared from an earlier layer, but none with the same window came before in this pass: read the "
                "layers in order, with one context."
            )
        return context.shared[self.source]

    def _score_options(self, q: Tensor) -> dict[str, Any]:
        return {"softcap": self.soft_cap, "sink": None if self.sinks is None else self.sinks.to(q.dtype)}

    def _finish(self, o: Tensor, x: Tensor, context: Context) -> Tensor:
        """o [..., H, D] weighted and gated by x [..., d] and projected."""
        if self.router is not None:
            o = o * self.router(x, context).unsqueeze(-1)
        heads = o.flatten(-2)
        return self.out_proj(heads if self.gate_proj is None else heads * self.gate_proj(x).sigmoid())
