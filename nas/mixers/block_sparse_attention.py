"""Attention in which every token picks, per KV head, the few earlier blocks of keys that look most relevant.

A block's relevance is the product of the query with the mean of the block's keys, summed over the queries that share
the KV head. Only complete, earlier blocks can be picked, and a token's own block is always seen up to the token, so
nothing depends on later tokens. While at most `top_k` blocks lie before a token, this is full attention.

Source: Lu et al., MoBA (arXiv 2502.13189), section 2.2; as there, relevance is computed in float32 on rotated keys.
"""

import torch
from torch import Tensor

from kernels import attention, attention_step, block_sparse_attention, moba_blocks
from nas.architecture.mixers import BlockSparseAttention
from nas.context import Context
from nas.layers.block_counts import keys_in_blocks
from nas.layers.kv_cache import empty_cache, extend, slot_and_length, write, write_if
from nas.layers.linear import Linear
from nas.layers.listed_blocks import attend_to_blocks
from nas.layers.qkv import QkvProjection
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.selection import Selection


class BlockSparseAttentionMixer(Mixer):
    """The state holds all keys and values, and the mean key of every complete block."""

    def __init__(self, options: BlockSparseAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.block_size = options.block_size
        self.top_k = options.top_k
        self.qkv = QkvProjection(options, d_model)
        self.selection = Selection(block_size=options.block_size, last=1)
        self.out_proj = Linear(options.num_heads * options.head_dim, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        q, k, v = self.qkv(x, context)
        if state is None:
            means = self._block_means(k)
        else:
            k, v = extend(state["k"], k, context.position), extend(state["v"], v, context.position)
            known, complete = context.position // self.block_size, k.shape[1] // self.block_size
            state["means"][:, known:complete] = self._block_means(k[:, known * self.block_size :])
            means = state["means"][:, :complete]
        blocks = self._blocks(q, means, k.shape[1])
        if blocks is None:
            o = attention(q, k, v)
        else:
            picks = self.selection(blocks, k.shape[1])
            o = block_sparse_attention(q, k, v, picks, block_size=self.block_size)
        return self.out_proj(o.flatten(2)), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        q, k, v = self.qkv(x.unsqueeze(1), context)
        slots, position = state["k"].shape[1], context.clock_on(x.device)
        slot, length = slot_and_length(context, slots, 0, x.device)
        write(state["k"], k[:, 0], slot)
        write(state["v"], v[:, 0], slot)
        blocks = self._blocks(q, state["means"], slots, position.view(1))
        if blocks is None:  # and nobody will ask for a mean
            o = attention_step(q[:, 0], state["k"].to(q.dtype), state["v"].to(q.dtype), length)
        else:
            picked = self.selection(blocks, context.position + 1)[:, 0]
            o = attend_to_blocks(q[:, 0], state["k"], state["v"], picked, length, block_size=self.block_size)
            self._keep_mean(state, position)
        return self.out_proj(o.flatten(1)), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        heads, head_dim = self.qkv.kv_heads, self.qkv.head_dim
        means = torch.zeros(batch, max_len // self.block_size, heads, head_dim, device=device)
        return {**empty_cache(batch, max_len, heads, head_dim, dtype, device), "means": means}

    def flops(self, tokens: int, context_len: int) -> int:
        seen, compared = (
            count(context_len + tokens) - count(context_len) for count in (self._keys_seen, self._means_compared)
        )
        products = 4 * seen * self.qkv.num_heads + 2 * compared * self.qkv.kv_heads
        return self.qkv.flops(tokens) + products * self.qkv.head_dim + linear_flops(tokens, self.out_proj)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # Means are compared with all of them; keys and values are read of the picked blocks and the own one.
        whole = self.state_bytes(context_len + tokens, dtype)
        means = (context_len + tokens) // self.block_size * self.qkv.kv_heads * self.qkv.head_dim * 4
        token = 2 * self.qkv.kv_heads * self.qkv.head_dim * dtype.itemsize
        picked = (self._keys_seen(context_len + tokens) - self._keys_seen(context_len)) * token
        return min(whole, means + picked) + tokens * token

    def _block_means(self, k: Tensor) -> Tensor:
        """Mean keys of the complete blocks of k [B, T, Hkv, D]: [B, T // block, Hkv, D] in float32."""
        complete = k.shape[1] // self.block_size
        return k[:, : complete * self.block_size].unflatten(1, (complete, self.block_size)).float().mean(2)

    def _keep_mean(self, state: State, position: Tensor) -> None:
        """Where the token at `position` ends a block, the mean of the block's keys goes into the state."""
        if state["means"].shape[1] == 0:
            return
        size, own = self.block_size, position // self.block_size
        tokens = (own * size + torch.arange(size, device=position.device)).clamp(max=state["k"].shape[1] - 1)
        mean = self._block_means(state["k"].index_select(1, tokens))[:, 0]
        write_if((position + 1) % size == 0, state["means"], mean, own)

    def _blocks(self, q: Tensor, means: Tensor, length: int, position: Tensor | None = None) -> Tensor | None:
        """The blocks that each of the last Tq of `length` tokens, or those at `position` [Tq], sees, [B, Tq, Hkv,
        top_k + 1]; None: all of them.

        The token's own block first; -1 stands for none.
        """
        if -(-length // self.block_size) <= self.top_k + 1:
            return None
        return moba_blocks(q, means, length, block_size=self.block_size, top_k=self.top_k + 1, position=position)

    def _keys_seen(self, tokens: int) -> int:
        """Keys seen by the first `tokens` tokens together: the own block up to the token, and at most top_k others."""
        return keys_in_blocks(tokens, self.block_size, self.top_k)

    def _means_compared(self, tokens: int) -> int:
        """Block means that the first `tokens` tokens are compared with."""
        full, rest = divmod(tokens, self.block_size)
        return full * (full - 1) // 2 * self.block_size + rest * full
