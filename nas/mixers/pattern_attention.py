"""Softmax attention under a fixed pattern: a block of tokens sees the same few earlier blocks whatever they hold.

Sources: chunks: Llama 4 (its model card and code); local and global blocks: Longformer (Beltagy et al., arXiv
2004.05150), section 3.1, with random ones BigBird (Zaheer et al., arXiv 2007.14062), section 2; strides: Sparse
Transformers (Child et al., arXiv 1904.10509), section 4.2; dilated segments: LongNet (Ding et al., arXiv 2307.02486),
section 2.2. All of them read one way here, and in blocks. The lists of blocks: `kernels.local_global_blocks` and its
neighbours.
"""

from functools import lru_cache

import torch
from torch import Tensor

from kernels import attention_step, block_sparse_attention, dilated_blocks, local_global_blocks, strided_blocks
from nas.architecture.pattern_attention import PatternAttention
from nas.context import Context
from nas.layers.kv_cache import append, empty_cache, extend, slot_and_length, write
from nas.layers.linear import Linear
from nas.layers.listed_blocks import attend_to_blocks
from nas.layers.qkv import QkvProjection
from nas.mixers.base import Mixer, State, linear_flops


class PatternAttentionMixer(Mixer):
    """The state holds all keys and values; of `chunked`, those of one block."""

    def __init__(self, options: PatternAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.options = options
        self.block_size = options.block_size
        self.qkv = QkvProjection(options, d_model)
        self.out_proj = Linear(options.num_heads * options.head_dim, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context, size = context or Context(), self.block_size
        q, k, v = self.qkv(x, context)
        if state is not None:
            k, v = extend(state["k"], k, context.position), extend(state["v"], v, context.position)
            if self.options.pattern == "chunked":  # what lies before the block of the first query is not seen
                needed = context.position % size + q.shape[1]
                k, v = k[:, -needed:], v[:, -needed:]
        first = k.shape[1] - q.shape[1]
        count = -(-k.shape[1] // size)
        lists = block_lists(self.options, first // size, count).to(x.device)
        if first % size:  # queries that start within a block: a list for each of them
            lists = lists[:, torch.arange(first, k.shape[1], device=x.device) // size - first // size]
        o = block_sparse_attention(q, k, v, lists, block_size=size, query_block=1 if first % size else size)
        return self.out_proj(o.flatten(2)), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        q, k, v = (tensor[:, 0] for tensor in self.qkv(x.unsqueeze(1), context))
        slot, length = slot_and_length(context, state["k"].shape[1], 0, x.device)
        if self.options.pattern == "chunked":  # the cache is one block, which starts anew
            k_seen, v_seen = append(state["k"], k, slot), append(state["v"], v, slot)
            o = attention_step(q, k_seen, v_seen, slot[0] + 1)
        else:
            write(state["k"], k, slot)
            write(state["v"], v, slot)
            blocks = self._listed(context, state["k"].shape[1], x.device)
            o = attend_to_blocks(q, state["k"], state["v"], blocks, length, block_size=self.block_size)
        return self.out_proj(o.flatten(1)), state

    def _listed(self, context: Context, slots: int, device: torch.device) -> Tensor:
        """The blocks that the token of a step sees, [1, 1, S], listed on the device once for all such layers."""
        key = ("blocks of a step", self.options, slots, device)
        if key not in context.shared:
            own, count = context.clock_on(device) // self.block_size, -(-slots // self.block_size)
            context.shared[key] = (lists_of(self.options, count, at=own)[:, 0],)
        return context.shared[key][0]

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        slots = min(max_len, self.block_size) if self.options.pattern == "chunked" else max_len
        return empty_cache(batch, slots, self.qkv.kv_heads, self.qkv.head_dim, dtype, device)

    def flops(self, tokens: int, context_len: int) -> int:
        seen = keys_seen(self.options, context_len, context_len + tokens)
        products = 4 * seen * self.qkv.num_heads * self.qkv.head_dim
        return self.qkv.flops(tokens) + products + linear_flops(tokens, self.out_proj)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        token = 2 * self.qkv.kv_heads * self.qkv.head_dim * dtype.itemsize
        seen = keys_seen(self.options, context_len, context_len + tokens) * token
        return min(self.state_bytes(context_len + tokens, dtype), seen) + tokens * token


@lru_cache(maxsize=64)
def block_lists(options: PatternAttention, start: int, count: int) -> Tensor:
    """The lists of the blocks of queries from `start` to before `count`, int32 [1, count - start, 1, S] on the CPU."""
    if options.pattern == "chunked":
        return torch.arange(start, count, dtype=torch.int32).view(1, -1, 1, 1)
    return lists_of(options, count, start=start)


def lists_of(options: PatternAttention, count: int, *, start: int = 0, at: Tensor | None = None) -> Tensor:
    """The lists of a pattern that has some, of the blocks from `start` on or of the one `at` a place on its device."""
    if options.pattern == "local_global":
        return local_global_blocks(
            count,
            local=options.local_blocks,
            global_blocks=options.global_blocks,
            random_blocks=options.random_blocks,
            seed=options.seed,
            start=start,
            at=at,
        )
    if options.pattern == "strided":
        return strided_blocks(count, local=options.local_blocks, stride=options.stride, start=start, at=at)
    return dilated_blocks(count, segments=options.segments, dilations=options.dilations, start=start, at=at)


def keys_seen(options: PatternAttention, first: int, last: int) -> int:
    """Keys that the tokens from `first` to before `last` see together."""
    size = options.block_size
    seen = 0
    for block in range(first // size, -(-last // size)):
        start, stop = max(first - block * size, 0), min(last - block * size, size)
        own = (stop * (stop + 1) - start * (start + 1)) // 2
        seen += own + (stop - start) * (blocks_seen(options, block) - 1) * size
    return seen


def blocks_seen(options: PatternAttention, block: int) -> int:
    """How many blocks a block of queries sees, its own one included."""
    match options.pattern:
        case "chunked":
            return 1
        case "local_global":
            return min(block + 1, options.local_blocks + options.global_blocks + options.random_blocks)
        case "strided":
            near, stride = options.local_blocks, options.stride
            return min(block + 1, near) + max(0, block // stride - (near - 1) // stride)
        case "dilated":
            # Segments start where the longest one does, so what is seen depends on the place in that alone.
            return _blocks_seen_dilated(options.segments, options.dilations, block % options.segments[-1])


@lru_cache(maxsize=4096)
def _blocks_seen_dilated(segments: tuple[int, ...], dilations: tuple[int, ...], block: int) -> int:
    seen: set[int] = set()
    for segment, dilation in zip(segments, dilations, strict=True):
        seen.update(range(block, block // segment * segment - 1, -dilation))
    return len(seen)
