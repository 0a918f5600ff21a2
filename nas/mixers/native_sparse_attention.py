"""Native sparse attention: compressed keys, the blocks that hold most of the attention to them, and a window.

    o = g_c attention(q, K_c, V_c) + g_s attention(q, selected blocks) + g_w attention(q, last tokens);  g = σ(W_g x)

A compressed key is seen once all of its tokens are past. Keys are compressed after their rotation, and the three
branches share keys and values, as in the code of fla; the paper gives each its own, at three times the cache.
Source: Yuan et al., NSA (arXiv 2502.11089), section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import attention, attention_step, block_sparse_attention, nsa_blocks
from nas.architecture.native_sparse_attention import NativeSparseAttention
from nas.context import Context
from nas.layers.block_counts import keys_in_blocks
from nas.layers.compression import RunCompression
from nas.layers.kv_cache import empty_cache, extend, pairs_in_window, slot_and_length, write, write_if
from nas.layers.linear import Linear
from nas.layers.listed_blocks import attend_to_blocks
from nas.layers.qkv import QkvProjection
from nas.mixers.base import Mixer, State, linear_flops
from nas.mixers.selection import Selection

BRANCHES = 3


class NativeSparseAttentionMixer(Mixer):
    """The state holds all keys and values, and the compressed ones. Rows of `gate_proj`: branch by branch, each [H]."""

    def __init__(self, options: NativeSparseAttention, d_model: int) -> None:
        super().__init__()
        self.family = options.family
        self.options = options
        self.qkv = QkvProjection(options, d_model)
        sizes = {"size": options.compressed_size, "stride": options.compressed_stride}
        self.k_compression = RunCompression(options.head_dim, **sizes, kind=options.compression)
        self.v_compression = RunCompression(options.head_dim, **sizes, kind=options.compression)
        self.selection = Selection(block_size=options.block_size, first=1, last=2)
        self.gate_proj = Linear(d_model, BRANCHES * options.num_heads)
        self.out_proj = Linear(options.num_heads * options.head_dim, d_model)

    def forward(
        self, x: Tensor, state: State | None = None, context: Context | None = None
    ) -> tuple[Tensor, State | None]:
        context = context or Context()
        q, k, v = self.qkv(x, context)
        if state is None:
            k_runs, v_runs = self.k_compression(k), self.v_compression(v)
        else:
            k, v = extend(state["k"], k, context.position), extend(state["v"], v, context.position)
            k_runs, v_runs = self._compressed(state, k, v, context.position)
        compressed = self._over_runs(q, k_runs, v_runs, k.shape[1])
        picks = self.selection(self._picks(q, k_runs, k.shape[1]), k.shape[1])
        selected = block_sparse_attention(q, k, v, picks, block_size=self._block_size)
        near = attention(q, k, v, window=self.options.window)
        return self._finish(x, compressed, selected, near), state

    def step(self, x: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        q, k, v = self.qkv(x.unsqueeze(1), context)
        slots, position = state["k"].shape[1], context.clock_on(x.device)
        slot, length = slot_and_length(context, slots, 0, x.device)
        write(state["k"], k[:, 0], slot)
        write(state["v"], v[:, 0], slot)
        k_runs, v_runs = self._runs_of_step(state, position, q.dtype)
        picks = self.selection(self._picks(q, k_runs, slots, position.view(1)), context.position + 1)[:, 0]
        q, compressed = q[:, 0], torch.zeros_like(q[:, 0])
        if k_runs.shape[1]:
            past = (position + 1 - self.options.compressed_size) // self.options.compressed_stride + 1
            compressed = attention_step(q, k_runs, v_runs, past.clamp(min=0))
        selected = attend_to_blocks(q, state["k"], state["v"], picks, length, block_size=self._block_size)
        last = position - torch.arange(min(self.options.window, slots), device=x.device)  # negative ones are none
        near = attend_to_blocks(q, state["k"], state["v"], last.view(1, 1, -1), length)
        return self._finish(x, compressed, selected, near), state

    def init_state(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device) -> State:
        heads, head_dim = self.qkv.kv_heads, self.qkv.head_dim
        runs = empty_cache(batch, self.k_compression.count(max_len), heads, head_dim, dtype, device)
        whole = empty_cache(batch, max_len, heads, head_dim, dtype, device)
        return {**whole, "k_runs": runs["k"], "v_runs": runs["v"]}

    def flops(self, tokens: int, context_len: int) -> int:
        runs_seen, runs, selected = (
            count(context_len + tokens) - count(context_len)
            for count in (self._runs_seen, self.k_compression.count, self._keys_selected)
        )
        # Scores of compressed keys are computed once to attend and once to select.
        pairs = 6 * runs_seen + 4 * selected + 4 * pairs_in_window(tokens, context_len, self.options.window)
        compression = self.qkv.kv_heads * (self.k_compression.flops(runs) + self.v_compression.flops(runs))
        products = pairs * self.qkv.num_heads * self.qkv.head_dim
        return self.qkv.flops(tokens) + compression + products + linear_flops(tokens, self.gate_proj, self.out_proj)

    def state_traffic(self, tokens: int, context_len: int, dtype: torch.dtype) -> int:
        # Compressed keys and values are read whole, of the others those selected and those in the window.
        token = 2 * self.qkv.kv_heads * self.qkv.head_dim * dtype.itemsize
        end = context_len + tokens
        selected = self._keys_selected(end) - self._keys_selected(context_len)
        seen = selected + pairs_in_window(tokens, context_len, self.options.window)
        new = tokens + self.k_compression.count(end) - self.k_compression.count(context_len)
        return (min(end, seen) + self.k_compression.count(end) + new) * token

    @property
    def _block_size(self) -> int:
        return self.options.block_size

    def _compressed(self, state: State, k: Tensor, v: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """All runs complete within k and v [B, T, H, D], of which those complete at `position` are in the state."""
        known, complete = self.k_compression.count(position), self.k_compression.count(k.shape[1])
        if complete > known:
            first = known * self.options.compressed_stride
            state["k_runs"][:, known:complete] = self.k_compression(k[:, first:]).to(state["k_runs"].dtype)
            state["v_runs"][:, known:complete] = self.v_compression(v[:, first:]).to(state["v_runs"].dtype)
        k_runs, v_runs = (state[name][:, :complete].to(k.dtype) for name in ("k_runs", "v_runs"))
        return k_runs, v_runs

    def _runs_of_step(self, state: State, position: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """All runs that there is room for, of which the token at `position` [] may have completed one just now."""
        size, stride = self.options.compressed_size, self.options.compressed_stride
        if state["k_runs"].shape[1]:
            first = position + 1 - size
            tokens = (first + torch.arange(size, device=position.device)).clamp(min=0)
            complete = (first >= 0) & (first % stride == 0)
            for name, compression in (("k", self.k_compression), ("v", self.v_compression)):
                run = compression(state[name].index_select(1, tokens).to(dtype))[:, 0]
                write_if(complete, state[f"{name}_runs"], run, first // stride)
        return state["k_runs"].to(dtype), state["v_runs"].to(dtype)

    def _over_runs(self, q: Tensor, k_runs: Tensor, v_runs: Tensor, length: int) -> Tensor:
        """Attention of the last Tq of `length` tokens to the runs that are past; zeros where none is."""
        runs = k_runs.shape[1]
        if not runs:
            return torch.zeros_like(q)
        # From the last token of a stride on, one more run is seen: so many queries share a list, the first of them
        # behind fillers where the queries start within a stride.
        stride, first = self.options.compressed_stride, length - q.shape[1]
        fillers = (first + 1) % stride
        starts = torch.arange(first + 1 - fillers, length + 1, stride, device=q.device)
        past = (starts - self.options.compressed_size) // stride
        run = torch.arange(runs, dtype=torch.int32, device=q.device)
        lists = torch.where(run <= past.unsqueeze(1), run, -1).view(1, -1, 1, runs)
        filled = F.pad(q, (0, 0, 0, 0, fillers, 0))
        o = block_sparse_attention(filled, k_runs, v_runs, lists, block_size=1, query_block=stride, causal=False)
        return o[:, fillers:]

    def _picks(self, q: Tensor, k_runs: Tensor, length: int, position: Tensor | None = None) -> Tensor:
        """The blocks that the last Tq of `length` tokens, or those at `position` [Tq], see: [B, Tq, Hkv, S]."""
        return nsa_blocks(
            q,
            k_runs,
            length,
            block_size=self._block_size,
            top_k=self.options.top_k,
            compressed_size=self.options.compressed_size,
            compressed_stride=self.options.compressed_stride,
            first=self.selection.first,
            last=self.selection.last,
            position=position,
        )

    def _finish(self, x: Tensor, *branches: Tensor) -> Tensor:
        """Branches [..., H, D] times their gates, added up and projected."""
        gates = self.gate_proj(x).sigmoid().unflatten(-1, (BRANCHES, -1, 1)).unbind(-3)
        total = gates[0] * branches[0]
        for gate, branch in zip(gates[1:], branches[1:], strict=True):
            total = total + gate * branch
        return self.out_proj(total.flatten(-2))

    def _runs_seen(self, tokens: int) -> int:
        """Compressed keys that the first `tokens` tokens see together."""
        stride, beyond = self.options.compressed_stride, max(0, tokens - self.options.compressed_size + 1)
        full, rest = divmod(beyond, stride)
        return stride * full * (full + 1) // 2 + rest * (full + 1)

    def _keys_selected(self, tokens: int) -> int:
        return keys_in_blocks(tokens, self._block_size, self.options.top_k - 1)
