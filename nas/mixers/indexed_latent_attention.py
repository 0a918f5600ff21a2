"""Latent attention to the tokens that an indexer picks (DeepSeek sparse attention).

As latent attention while a token has at most `top_k` tokens to see; beyond that each sees the `top_k` that its indexer
scores highest, the same ones for all heads.
Source: DeepSeek-V3.2 (arXiv 2512.02556), section 2.1.
"""

import torch
from torch import Tensor

from kernels import attention, block_sparse_attention
from nas.architecture.indexed_latent_attention import IndexedLatentAttention
from nas.context import Context
from nas.layers.indexer import Indexer
from nas.layers.kv_cache import append, extend, pairs_in_window, slot_and_length
from nas.layers.rope import Rope
from nas.mixers.base import State, linear_flops
from nas.mixers.latent_attention import LatentAttentionMixer
from nas.mixers.selection import Selection


class IndexedLatentAttentionMixer(LatentAttentionMixer):
    """The state holds what latent attention caches, and one key of the indexer a token."""

    def __init__(self, options: IndexedLatentAttention, d_model: int) -> None:
        super().__init__(options, d_model)
        self.top_k, self.index_weight = options.top_k, options.index_weight
        rope = None
        if options.position == "rope":  # pairs of the indexer are never interleaved
            rope = Rope(size=options.rope_dim, base=options.rope_base, scaling=options.rope_scaling)
        query_size = d_model if options.query_rank is None else options.query_rank
        self.indexer = Indexer(
            d_model, query_size, heads=options.index_heads, size=options.index_dim, rope=rope
        )  # fmt: skip
        self.selection = Selection()

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        taught = self.training and state is None and context is not None and self.index_weight > 0
        context = context or Context()
        short = self._short_queries(x)
        q, latent = self._queries(short, context), self._latent(x, context)
        index_q, weight = self.indexer.queries(short, x, context)
        index_k = self.indexer.keys(x, context)
        if state is not None:
            latent = extend(state["latent"], latent, context.position)
            index_k = extend(state["index"], index_k, context.position)
        k, v = self._written_out(latent)
        picks = self.selection(self.indexer.picks(index_q, weight, index_k, self.top_k), k.shape[1])
        if k.shape[1] <= self.top_k:
            o = attention(q, k, v, scale=self.scale)
        else:
            o = block_sparse_attention(q, k, v, picks, block_size=1, scale=self.scale)
        if taught:
            loss = self.indexer.loss((index_q, weight, index_k), q, k, picks.squeeze(2), self.scale)
            context.losses.append(self.index_weight * loss)
        return self.out_proj(o.flatten(2)), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        x = x.unsqueeze(1)
        short = self._short_queries(x)
        q, slots = self._queries(short, context)[:, 0], state["latent"].shape[1]
        slot, length = slot_and_length(context, slots, 0, x.device)
        latent = append(state["latent"], self._latent(x, context)[:, 0], slot)
        index_k = append(state["index"], self.indexer.keys(x, context)[:, 0], slot)
        if slots <= self.top_k:
            return self._absorbed(q, latent, length), state
        index_q, weight = self.indexer.queries(short, x, context)
        picks = self.indexer.picks(index_q, weight, index_k, self.top_k, context.clock_on(x.device).view(1))
        return self._absorbed(q, latent, length, self.selection(picks, context.position + 1)[:, 0]), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        index = torch.zeros(batch, max_len, 1, self.indexer.size, dtype=dtype, device=device)
        return {**super().init_state(batch, max_len, dtype, device), "index": index}

    def flops(self, tokens: int, context_len: int) -> int:
        pairs = pairs_in_window(tokens, context_len, self.top_k)
        indexed = self.indexer.flops(tokens, pairs_in_window(tokens, context_len, None))
        return linear_flops(tokens, *self._linears()) + pairs * self._flops_of_a_pair(tokens) + indexed

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # Keys of the indexer are read whole, of the cache what is picked; each new token is written.
        end, index = context_len + tokens, self.indexer.size * dtype.itemsize
        cached = (self.latent_dim + self.shared) * dtype.itemsize
        picked = min(end, pairs_in_window(tokens, context_len, self.top_k))
        return (end + tokens) * index + (picked + tokens) * cached
