"""Attention among tokens that fall into the same bucket of a hash: near in direction, so likely to attend.

The bucket of a vector is the largest of x r and -x r over random directions r. A token sees the latest tokens whose
keys share a bucket with its query, one choice for the queries that share a KV head (their sum is hashed), and itself.
Reformer sorts by bucket and attends within chunks, so what is seen depends on how many tokens follow; here it does not.
Queries and keys are projected apart. Source: Kitaev et al., Reformer (arXiv 2001.04451), section 2.
"""

import torch
from torch import Tensor

from kernels import block_sparse_attention
from nas.architecture.hash_attention import HashAttention
from nas.context import Context
from nas.layers.kv_cache import empty_cache, extend, pairs_in_window, slot_and_length, write
from nas.layers.linear import Linear
from nas.layers.listed_blocks import attend_to_blocks
from nas.layers.qkv import QkvProjection
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.selection import Selection

QUERIES_PER_CHUNK = 256  # so many are compared with all keys at a time


class HashAttentionMixer(Mixer):
    """The state holds all keys and values, and the buckets of the keys, [B, S, Hkv, hashes], in float32."""

    directions: Tensor

    def __init__(self, options: HashAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.top_k, self.num_hashes = options.top_k, options.num_hashes
        self.qkv = QkvProjection(options, d_model)
        self.selection = Selection(last=1)
        shape = (options.head_dim, options.num_hashes, options.num_buckets // 2)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed), device="cpu")
        self.register_buffer("directions", drawn.to(torch.get_default_device()), persistent=False)
        self.out_proj = Linear(options.num_heads * options.head_dim, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        q, k, v = self.qkv(x, context)
        of_keys = self._buckets(k)
        if state is not None:
            read = (("k", k), ("v", v), ("buckets", of_keys))
            k, v, of_keys = (extend(state[name], new, context.position) for name, new in read)
        position = torch.arange(k.shape[1] - q.shape[1], k.shape[1], device=q.device)
        picks = self.selection(self._picks(q, of_keys, position), k.shape[1])
        return self.out_proj(block_sparse_attention(q, k, v, picks, block_size=1).flatten(2)), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        q, k, v = self.qkv(x.unsqueeze(1), context)
        slot, length = slot_and_length(context, state["k"].shape[1], 0, x.device)
        for name, new in (("k", k), ("v", v), ("buckets", self._buckets(k))):
            write(state[name], new[:, 0], slot)
        picks = self._picks(q, state["buckets"], context.clock_on(x.device).view(1))
        picks = self.selection(picks, context.position + 1)[:, 0]
        o = attend_to_blocks(q[:, 0], state["k"], state["v"], picks, length)
        return self.out_proj(o.flatten(1)), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        heads = self.qkv.kv_heads
        buckets = torch.zeros(batch, max_len, heads, self.num_hashes, device=device)
        return {**empty_cache(batch, max_len, heads, self.qkv.head_dim, dtype, device), "buckets": buckets}

    def flops(self, tokens: int, context_len: int) -> int:
        # As if every token found `top_k` others; the comparison of buckets is no product.
        products = 4 * pairs_in_window(tokens, context_len, self.top_k) * self.qkv.num_heads * self.qkv.head_dim
        hashes = 2 * tokens * 2 * self.qkv.kv_heads * self.directions.numel()
        return self.qkv.flops(tokens) + products + hashes + linear_flops(tokens, self.out_proj)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # Buckets are read whole, keys and values of what is seen; each new token is written.
        end, token = context_len + tokens, 2 * self.qkv.kv_heads * self.qkv.head_dim * dtype.itemsize
        buckets = self.qkv.kv_heads * self.num_hashes * 4
        seen = min(end, pairs_in_window(tokens, context_len, self.top_k))
        return (end + tokens) * buckets + (seen + tokens) * token

    @torch.no_grad()
    def _buckets(self, x: Tensor) -> Tensor:
        """x [B, T, H, D] -> the bucket of each hash, [B, T, H, hashes] in float32."""
        along = torch.einsum("bthd,dnr->bthnr", x.float(), self.directions.float())
        return torch.cat((along, -along), dim=-1).argmax(-1).float()

    @torch.no_grad()
    def _picks(self, q: Tensor, of_keys: Tensor, position: Tensor) -> Tensor:
        """The tokens that queries at `position` [Tq] see: [B, Tq, Hkv, min(top_k, Tk)], -1 where there are fewer."""
        keys = of_keys.shape[1]
        of_queries = self._buckets(q.unflatten(2, (self.qkv.kv_heads, -1)).sum(3)).transpose(1, 2).unsqueeze(3)
        # Rounded, so that the random contents of a state that is measured are buckets too.
        of_keys = of_keys.abs().round().transpose(1, 2).unsqueeze(2)  # [B, H, 1, Tk, hashes]
        key = torch.arange(keys, device=q.device)
        parts = []
        for start in range(0, q.shape[1], QUERIES_PER_CHUNK):
            chunk = of_queries[:, :, start : start + QUERIES_PER_CHUNK]
            own = position[start : start + QUERIES_PER_CHUNK].unsqueeze(1)
            shared = ((chunk == of_keys).any(-1) & (key < own)) | (key == own)  # [B, H, chunk, Tk]
            latest = torch.where(shared, key, -1).topk(min(self.top_k, keys), dim=-1).values
            parts.append(latest)
        return torch.cat(parts, dim=2).transpose(1, 2)
